"""The rate of several runs at once on one device, with and without MPS.

Each run is a process, as in `vkd sweep --jobs N`. As many as the largest N are started; of these
the first N train at the same time, while the others wait.

CUDA's Multi-Process Service (MPS) lets kernels of several processes run at the same time.
"""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import which
from typing import Any

from gpu_setup import BEST, Setup
from laps import Enough, train

from gan_vkd.training import Game

CONTROL = "nvidia-cuda-mps-control"


class Process:
    """A run in a process that answers each line of its input by one line."""

    def __init__(self, setup: Setup, log: Path, environment: dict[str, str]) -> None:
        self.log = log
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, __file__, *map(str, setup)], env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip

    def ask(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            said = [x for x in self.log.read_text(errors="replace").splitlines() if x.strip()]
            raise RuntimeError(f"a run ended by itself: {said[-1] if said else ''}")
        return line

    def end(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def rates(setup: Setup, counts: list[int], mps: bool) -> dict[str, Any]:
    """Returns the iterations per second of 1, 2, ... runs together, by their number."""
    setup.settings("cached features", BEST)  # writes data and weights that are missing, once
    with _mps(setup.scratch / "mps") if mps else _no_mps() as environment:
        logs = [setup.scratch / f"run{index}.log" for index in range(max(counts))]
        runs = [Process(setup, log, environment) for log in logs]
        try:
            for run in runs:
                run.answer()
            return {"rates": {str(n): _together(runs[:n], setup.seconds) for n in counts}}
        finally:
            for run in runs:
                run.end()


def _together(runs: list[Process], seconds: float) -> float:
    for run in runs:
        run.ask(f"{2 * seconds}")
    return sum(float(run.answer()) for run in runs)


@contextmanager
def _no_mps() -> Iterator[dict[str, str]]:
    yield dict(os.environ)


@contextmanager
def _mps(folder: Path) -> Iterator[dict[str, str]]:
    """Environment of processes that share an MPS server, which is started and ended here."""
    if which(CONTROL) is None:
        raise RuntimeError(f"{CONTROL} is not installed")
    folder.mkdir(exist_ok=True)
    environment = os.environ | {
        "CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder),
    }  # fmt: skip
    subprocess.run([CONTROL, "-d"], env=environment, check=True, timeout=20)
    try:
        yield environment
    finally:
        end_mps(folder)


def end_mps(folder: Path) -> None:
    """Ends the MPS server of a folder, if there is one."""
    environment = os.environ | {"CUDA_MPS_PIPE_DIRECTORY": str(folder)}
    if folder.is_dir() and which(CONTROL) is not None:
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [CONTROL], input="quit\n", text=True, env=environment, timeout=10, check=False,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip


def _as_setup(arguments: list[str]) -> Setup:
    kinds = Setup.__annotations__.values()
    return Setup(*(kind(text) for kind, text in zip(kinds, arguments, strict=True)))


def one_run() -> None:
    """A run that trains for as many seconds as each line of its input says, and answers with its
    iterations per second."""
    setup = _as_setup(sys.argv[1:])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    laps = itertools.count()
    begun, until, first = 0.0, 0.0, 0

    def at_lap(game: Game, now: int) -> None:
        nonlocal begun, until, first
        if next(laps) < 2 or time.perf_counter() < until:
            return
        answer = f"{(now - first) / (time.perf_counter() - begun)}" if until else "ready"
        print(answer, file=answers)
        line = sys.stdin.readline()
        if not line:
            raise Enough
        begun, first = time.perf_counter(), now
        until = begun + float(line)

    train(setup.settings("cached features", BEST), setup.scratch, setup.period, at_lap)


if __name__ == "__main__":
    one_run()
