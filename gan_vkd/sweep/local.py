"""Runs of a sweep on this machine, several at once."""

import os
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path

from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.stopping import HANGUP, Stopped, handled
from gan_vkd.sweep.places import Place, places
from gan_vkd.sweep.plan import Job, Program, plan
from gan_vkd.sweep.process import describe, last_line, start

REPORT_EVERY = 30  # seconds
STOPS = [n for n in (signal.SIGINT, signal.SIGTERM, HANGUP) if n is not None]


def sweep(
    program: Program,
    configs: list[Path],
    seeds: list[int],
    out: Path,
    overrides: list[str],
    jobs: int | None = None,
) -> list[Path]:
    """Trains every arm at every seed; a run that fails or is killed does not stop the others.

    Called again, it skips finished runs and continues the others.

    Args:
        program: the training program.
        configs: settings of each arm; their short name names the arm's runs.
        seeds: of the runs.
        out: folder in which each run gets a folder ARM_seedS and a log ARM_seedS.log.
        overrides: key.sub=value, applied to the arms that have the key: distill.* to arms with a
            distillation, options of a method to arms with that method.
        jobs: number of runs at once, which share the cores and the visible GPUs; None: see
            `places`.

    Returns:
        The folders of the finished runs: fewer than arms x seeds where some failed.

    Raises:
        SettingsError: as in `plan`, before anything is started.
        Stopped: by SIGINT, SIGTERM or SIGHUP, after the runs have stopped.
        VkdError: a process cannot be started, or its log cannot be written.
    """
    if jobs is not None and jobs < 1:
        raise SettingsError(f"jobs = {jobs}: expected at least one run at a time")
    runs = plan(program, configs, seeds, out, overrides)
    waiting = [job for job in runs if not job.finished]
    outcomes = {job.name: "finished already" for job in runs if job.finished}
    finished = set(outcomes)
    if outcomes:
        print(f"{len(outcomes)}/{len(runs)} finished already", flush=True)
    took: list[float] = []
    signals: list[int] = []
    with (
        handled(STOPS, lambda number, frame: signals.append(number)),
        places(jobs, waiting) as where,
        closing(_ended(waiting, where, signals)) as ended,
    ):
        at_once = sum(place.most for place in where)
        for job, code, seconds in ended:
            outcomes[job.name] = outcome = describe(code, bool(signals))
            if code == 0:
                finished.add(job.name)
                took.append(seconds)
            left = len(runs) - len(outcomes)
            line = f"{len(outcomes)}/{len(runs)} {job.name} {outcome} in {_duration(seconds)}"
            if took and left and not signals:
                half_done = min(at_once - 1, left) / 2
                rest = sum(took) / len(took) * (left - half_done) / min(at_once, left)
                line += f"; about {_duration(rest)} left"
            print(line, flush=True)
    for job in runs:
        line = "" if job.finished else last_line(job.log)
        outcome = outcomes.get(job.name, "not started")
        print(f"{job.name}: {outcome}; {line + '; ' if line else ''}{job.log}", flush=True)
    if signals:
        name = signal.Signals(signals[0]).name
        raise Stopped(f"{out}: stopped by {name}; call again to continue", 128 + signals[0])
    return [job.folder for job in runs if job.name in finished]


def _ended(
    waiting: list[Job], where: list[Place], signals: list[int]
) -> Generator[tuple[Job, int, float], None, None]:
    """Starts the jobs where there is room, and yields each as it ends: job, exit code and seconds.

    signals: those that were received; the first stops the runs, a further SIGINT kills them.
    """
    running: dict[str, tuple[Job, subprocess.Popen[bytes], float, Place]] = {}
    threads = max(1, (os.cpu_count() or 1) // sum(place.most for place in where))
    environment = os.environ | {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(threads)
    }
    forwarded, reported = False, time.monotonic()
    try:
        while running or (waiting and not signals):
            while waiting and not signals and (place := _with_room(where)) is not None:
                job = waiting.pop(0)
                process = start(job, environment | place.environment)
                running[job.name] = job, process, time.monotonic(), place
                place.add(job)
                print(f"{job.name} started, {job.log}", flush=True)
            if signals and not forwarded:
                forwarded = True
                number = signal.SIGINT if signals[0] == signal.SIGINT else signal.SIGTERM
                for _, process, *_ in running.values():  # SIGHUP would end a run without checkpoint
                    with suppress(ValueError):  # on Windows Ctrl-C reaches the runs by itself
                        process.send_signal(number)
                print("stopping the runs; a further SIGINT (Ctrl-C) kills them", flush=True)
            if signal.SIGINT in signals[1:]:
                for _, process, *_ in running.values():
                    process.kill()
            for name, (job, process, since, place) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    place.remove(job)
                    yield job, process.returncode, time.monotonic() - since
            if time.monotonic() - reported > REPORT_EVERY:
                reported = time.monotonic()
                for job, *_ in running.values():
                    print(f"{job.name}: {last_line(job.log)}", flush=True)
            time.sleep(0.2)
    finally:  # on an exception: the terminal is gone, or a process cannot be started
        for _, process, *_ in running.values():
            process.terminate()
        for _, process, *_ in running.values():
            process.wait()


def _with_room(where: list[Place]) -> Place | None:
    """The place with the fewest runs, of those that have room."""
    by_load = sorted(where, key=lambda place: place.running)
    return next((place for place in by_load if place.has_room()), None)


def _duration(seconds: float) -> str:
    """Formats a duration as 7s, 3m20s or 1h02m."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
