"""Training by the project's own loop, timed every few iterations."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gan_vkd.game.settings import Settings
from gan_vkd.run import Run
from gan_vkd.runtime.loggers.interface import Logger
from gan_vkd.runtime.task import Hook
from gan_vkd.runtime.training import run_to_end
from gan_vkd.training import Game

WARM = 5.0  # seconds at most


class Enough(Exception):
    """Ends the training."""


class Timed(Game):
    """A run that calls `at_lap(game, iteration)` every `period` iterations, the device idle."""

    def __init__(self, *given: Any, period: int, at_lap: Callable[[Game, int], None]) -> None:
        super().__init__(*given)
        self.period, self.at_lap = period, at_lap

    def hooks(self, logger: Logger) -> Sequence[Hook]:
        return [Hook(self.period, partial(self.at_lap, self))]


class Compiled(Timed):
    """With the forward of both networks compiled by torch.compile, once for each shape."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        for network in (self.trainer.generator, self.trainer.discriminator):
            network.forward = torch.compile(network.forward, dynamic=False)


def train(
    settings: Settings,
    scratch: Path,
    period: int,
    at_lap: Callable[[Game, int], None],
    game: type[Timed] = Timed,
) -> None:
    """Trains as `vkd train` does, in a new folder, until `at_lap` raises `Enough`."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    with suppress(Enough):
        run_to_end(partial(game, period=period, at_lap=at_lap), settings, Run(folder / "run"))


def pace(
    settings: Settings,
    scratch: Path,
    period: int,
    seconds: float,
    then: Callable[[Game], dict[str, Any]] = lambda game: {},
    game: type[Timed] = Timed,
) -> dict[str, Any]:
    """Times a stretch of training, after some seconds to warm up.

    Args:
        settings, scratch, period, game: as in `train`.
        seconds: of the stretch, at least.
        then: called afterwards; its entries are added.

    Returns:
        The stretch's `seconds` and `iterations`, and `iteration`, milliseconds of one.
    """
    marks: list[tuple[int, float]] = []  # the last iteration of each lap, and its time
    found: dict[str, Any] = {}

    def at_lap(game: Game, now: int) -> None:
        marks.append((now, time.perf_counter()))
        warm = [mark for mark in marks[1:] if mark[1] - marks[0][1] >= min(seconds / 2, WARM)]
        if len(warm) < 2 or warm[-1][1] - warm[0][1] < seconds:
            return
        took, count = warm[-1][1] - warm[0][1], now - warm[0][0]
        found.update({"seconds": took, "iterations": count, "iteration": 1000 * took / count})
        found.update(then(game))
        raise Enough

    train(settings, scratch, period, at_lap, game)
    return found
