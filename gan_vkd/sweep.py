"""Arms x seeds, each run a process of its own, some at once on one device."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from gan_vkd.config import RunSettings, load_settings
from gan_vkd.errors import SettingsError, VkdError
from gan_vkd.folder import RunFolder
from gan_vkd.progress import is_finished
from gan_vkd.settings_file import Section
from gan_vkd.stopping import Stopped, handled

REPORT_EVERY = 30  # seconds
STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


class Program(NamedTuple):
    """What trains, and how its settings and runs are read.

    command: of the process, before `train`.
    load: the settings of a file with overrides.
    """

    command: list[str]
    load: Callable[[Path, list[str]], RunSettings]


GANS = Program([sys.executable, "-m", "gan_vkd"], load_settings)


class Job(NamedTuple):
    """One arm at one seed."""

    name: str
    folder: Path
    log: Path
    command: list[str]
    finished: bool  # before the sweep


def read_arguments(
    arguments: list[str], seeds: list[str] | None
) -> tuple[list[Path], list[int], list[str]]:
    """Settings files, seeds and overrides of `CONFIG... --seeds 0 1 2 key=value`.

    Args:
        arguments: the positional ones, among them the seeds after the first.
        seeds: of --seeds, each a number or several with commas; None: not given, seed 0.

    Raises:
        SettingsError: a seed that is no number, or a number without --seeds.
    """
    numbers = [item for item in arguments if item.isdecimal()]
    if numbers and seeds is None:
        raise SettingsError(f"{numbers[0]}: expected a settings file; seeds follow --seeds")
    listed = [part for item in seeds or ["0"] for part in re.split("[, ]+", item)] + numbers
    for part in listed:
        if not part.isdecimal():
            raise SettingsError(f"--seeds {part}: expected whole numbers, as in --seeds 0 1 2")
    rest = [item for item in arguments if item not in numbers]
    overrides = [item for item in rest if "=" in item and not os.path.exists(item)]
    configs = [Path(item) for item in rest if item not in overrides]
    return configs, [int(part) for part in listed], overrides


def sweep_and_compare(
    arguments: list[str],
    seeds: list[str] | None,
    jobs: int,
    out: Path,
    slurm: str | None,
    compare: Callable[[list[Path]], None],
    program: Program | None = None,
) -> None:
    """What the command lines' `sweep` does: all runs here, then the table; or a job a run.

    Raises:
        VkdError: a run failed; those that did not are compared.
    """
    configs, numbers, overrides = read_arguments(arguments, seeds)
    if slurm is not None:
        from gan_vkd.slurm import submit

        submit(configs, numbers, out, overrides, slurm, program=program)
        return
    finished = sweep(configs, numbers, out, overrides, jobs, program)
    if finished:
        compare(finished)
    failed = len(configs) * len(numbers) - len(finished)
    if failed:
        raise VkdError(f"{out}: {failed} runs failed, see above; call again to go on with them")


def plan(
    configs: list[Path],
    seeds: list[int],
    out: Path,
    overrides: list[str],
    program: Program | None = None,
) -> list[Job]:
    """The runs of a sweep, seeds outermost; everything that settings can have wrong fails here.

    Raises:
        SettingsError: no or twice the same arm or seed, bad settings, a folder of another run.
        VkdError: `out` cannot be written.
    """
    arms = [config.stem for config in configs]
    for kind, items in (("settings file", arms), ("seed", seeds)):
        twice = [item for place, item in enumerate(items) if item in items[:place]]
        if twice or not items:
            fault = f"{kind} {twice[0]} is given twice" if twice else f"no {kind} is given"
            raise SettingsError(f"sweep: {fault}; a run is named by its settings file and its seed")
    if fixed := [item for item in overrides if item.partition("=")[0] == "seed"]:
        raise SettingsError(f"{fixed[0]}: the seeds of a sweep are set by --seeds")
    program = program or GANS
    out, jobs = out.expanduser(), []
    for seed in seeds:
        for config, arm in zip(configs, arms, strict=True):
            plain = program.load(config, [])
            chosen = [item for item in overrides if _concerns(item, plain)]
            if seed == seeds[0]:
                for item in [item for item in overrides if item not in chosen]:
                    print(f"{arm}: {item} is left out, it has no use for it")
            chosen.append(f"seed={seed}")
            settings = program.load(config, chosen)
            folder, log = out / f"{arm}_seed{seed}", out / f"{arm}_seed{seed}.log"
            command = [
                *program.command,
                "train",
                str(config),
                *chosen,
                "--out",
                str(folder),
                "--resume",
            ]
            finished = is_finished(RunFolder(folder), settings, resume=True)
            jobs.append(Job(f"{arm} seed {seed}", folder, log, command, finished))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VkdError(f"{out}: cannot be written ({error.strerror})") from None
    return jobs


def _concerns(override: str, settings: RunSettings) -> bool:
    """False for a setting that has no part or no effect in the arm, such as distill.weight."""
    node: Any = settings
    for part in override.partition("=")[0].split("."):
        if isinstance(node, Section):
            if part in node.idle:
                return False
            if part not in type(node).model_fields:
                return True  # to be refused as an unknown key
            node = getattr(node, part)
        elif isinstance(node, dict):
            node = node.get(part)
        else:
            return node is not None
    return True


def sweep(
    configs: list[Path],
    seeds: list[int],
    out: Path,
    overrides: list[str],
    jobs: int = 1,
    program: Program | None = None,
) -> list[Path]:
    """Trains every arm at every seed; a run that fails or is killed does not stop the others.

    Called again, it skips what is finished and continues the rest.

    Args:
        configs: a settings file an arm; the file's stem names the arm.
        seeds: of the runs.
        out: gets a folder ARM_seedS and a log ARM_seedS.log a run.
        overrides: key.sub=value, each for the arms that have a use for it: those of distill.* go to
            the arms with a distillation, those of distill.whitening.* to the ones that whiten.
        jobs: how many runs go on at once; they share the cores.
        program: what trains; None: the GAN.

    Returns:
        The folders of the finished runs: fewer than arms x seeds where some failed.

    Raises:
        SettingsError: as in `plan`, before anything is started.
        Stopped: by SIGINT, SIGTERM or SIGHUP, after the runs have stopped.
        VkdError: a process or its log cannot be started.
    """
    if jobs < 1:
        raise SettingsError(f"jobs = {jobs}: at least one run must go on at a time")
    runs = plan(configs, seeds, out, overrides, program)
    waiting = [job for job in runs if not job.finished]
    outcomes = {job.name: "finished already" for job in runs if job.finished}
    if outcomes:
        print(f"{len(outcomes)}/{len(runs)} finished already", flush=True)
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or threads}
    took: list[float] = []
    asked: list[int] = []
    with (
        handled(STOPS, lambda number, frame: asked.append(number)),
        closing(_ended(waiting, jobs, environment, asked)) as ended,
    ):
        for job, code, seconds in ended:
            outcomes[job.name] = outcome = describe(code, bool(asked))
            took += [seconds] if code == 0 else []
            left = len(runs) - len(outcomes)
            line = f"{len(outcomes)}/{len(runs)} {job.name} {outcome} in {_duration(seconds)}"
            if took and left and not asked:
                half_done = min(jobs - 1, left) / 2
                rest = sum(took) / len(took) * (left - half_done) / min(jobs, left)
                line += f"; about {_duration(rest)} left"
            print(line, flush=True)
    for job in runs:
        said = "" if job.finished else last_line(job.log)
        outcome = outcomes.get(job.name, "not started")
        print(f"{job.name}: {outcome}; {said + '; ' if said else ''}{job.log}", flush=True)
    if asked:
        name = signal.Signals(asked[0]).name
        raise Stopped(f"{out}: stopped by {name}; call again to go on", 128 + asked[0])
    return [job.folder for job in runs if outcomes[job.name].startswith("finished")]


def _ended(
    waiting: list[Job], jobs: int, environment: dict[str, str], asked: list[int]
) -> Generator[tuple[Job, int, float], None, None]:
    """Starts the jobs one after the other and yields each as it ends: its code and its seconds."""
    running: dict[str, tuple[Job, subprocess.Popen[bytes], float]] = {}
    told, reported = False, time.monotonic()
    try:
        while running or (waiting and not asked):
            while waiting and not asked and len(running) < jobs:
                job = waiting.pop(0)
                running[job.name] = job, start(job, environment), time.monotonic()
                print(f"{job.name} started, {job.log}", flush=True)
            if asked and not told:
                told = True
                for _, process, _ in running.values():  # SIGHUP would end a run without checkpoint
                    process.send_signal(asked[0] if asked[0] == signal.SIGINT else signal.SIGTERM)
                print("stopping the runs; SIGINT (Ctrl-C) once more kills them", flush=True)
            if signal.SIGINT in asked[1:]:
                for _, process, _ in running.values():
                    process.kill()
            for name, (job, process, since) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    yield job, process.returncode, time.monotonic() - since
            if time.monotonic() - reported > REPORT_EVERY:
                reported = time.monotonic()
                for job, _, _ in running.values():
                    print(f"{job.name}: {last_line(job.log)}", flush=True)
            time.sleep(0.2)
    finally:  # left early: the terminal is gone, or a process cannot be started
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.wait()


def start(
    job: Job, environment: dict[str, str], own_session: bool = True
) -> "subprocess.Popen[bytes]":
    """In a session of its own a run does not get the terminal's Ctrl-C beside the sweep's."""
    try:
        with open(job.log, "ab", buffering=0) as log:
            log.write(f"$ {shlex.join(job.command)}\n".encode())
            return subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Unbuffered: what comes last in the log was said last, as an error is
                env=environment | {"PYTHONUNBUFFERED": "1"},
                start_new_session=own_session,
            )
    except OSError as error:
        raise VkdError(f"{job.log}: the run cannot be started ({error.strerror})") from None


def describe(code: int, asked: bool) -> str:
    if code == 0:
        return "finished"
    names = {-number: number.name for number in signal.Signals}
    reason = names.get(code, f"exit code {code}")
    return f"{'stopped' if asked else 'failed'} ({reason})"


def last_line(log: Path) -> str:
    """What a run said last, its error where there is one; "" for nothing."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            said = re.split(r"[\r\n]+", file.read().decode(errors="replace").rstrip())[-1].strip()
    except OSError:
        return ""
    return "" if said.startswith("$ ") else said[:300]  # the command that start wrote


def _duration(seconds: float) -> str:
    """7s, 3m20s or 1h02m."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
