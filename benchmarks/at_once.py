"""The rate of several runs at once on one device, with and without MPS.

Each run is a process, as in `vkd sweep --jobs N`. As many as the largest N are started; of these
the first N train at the same time, while the others wait.
"""

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from gpu_setup import BEST, Setup
from laps import Enough, train

from gan_vkd.sweep.mps import served
from gan_vkd.sweep.places import visible_gpus
from gan_vkd.training import Game


class Process:
    """A run in a process that answers each line of its input by one line."""

    def __init__(self, setup: Setup, log: Path, variables: dict[str, str]) -> None:
        self.log = log
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, __file__, *map(str, setup)], env=os.environ | variables, text=True,
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
    with _shared(setup.scratch / "mps") if mps else nullcontext({}) as variables:
        logs = [setup.scratch / f"run{index}.log" for index in range(max(counts))]
        runs = [Process(setup, log, variables) for log in logs]
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
def _shared(folder: Path) -> Iterator[dict[str, str]]:
    """Variables of processes that share the first GPU by MPS."""
    folder.mkdir(exist_ok=True)
    with served((visible_gpus() or ["0"])[0], folder) as variables:
        yield variables


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
