"""The interface between the training loop (gan_vkd/runtime/training.py) and what is trained."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

from gan_vkd.runtime.loggers.interface import Logger
from gan_vkd.runtime.meter import Meter
from gan_vkd.runtime.progress import Progress, Trained


@dataclass(frozen=True)
class Hook:
    """A callback, called every `period` iterations and after the last one.

    call: takes the number of completed iterations.
    every_rank: call it on all ranks, otherwise on rank 0 only.
    first: before the first `period` ends, call it after this many iterations and after 2, 4, 8, ...
        times as many; None: not before.
    """

    period: int
    call: Callable[[int], None]
    every_rank: bool = False
    first: int | None = None

    def is_early(self, now: int) -> bool:
        """Whether a call before the first period is due after `now` iterations."""
        if self.first is None or now >= self.period or now % self.first:
            return False
        return (now // self.first).bit_count() == 1  # a power of two


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    loss: selects the best evaluation; lower is better, inf is undefined.
    export: writes the files of the best evaluation; called on rank 0 if this is the best so far.
    record: for metrics.jsonl; empty if nothing was measured.
    text: printed to the terminal.
    """

    loss: float
    export: Callable[[], None]
    record: dict[str, Any] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Status:
    """Where a run in training is, for people who follow it.

    state: running, finished, or why it ended. place: the position in words. left: estimated seconds
    to the end; None: not known.
    """

    state: str
    place: str
    left: float | None = None

    @property
    def is_running(self) -> bool:
        return self.state == "running"

    def __str__(self) -> str:
        left = "" if self.left is None else f", about {timedelta(seconds=round(self.left))} left"
        return f"{self.state}: {self.place}{left}"


class Task(ABC):
    """Networks, data and measures of a run, built from its settings, its folder and a device.

    Files are read by the constructor, so that missing ones are reported before training: it raises
    SettingsError for settings that do not fit the data, the ranks or each other, and VkdError for
    data or weights that cannot be used.

    trained: the state that checkpoints save.
    total: iterations of the whole run.
    evaluate_every: iterations between evaluations.
    data: description of the training data.
    fingerprint: digest of the training data; a resumed run must have the same.
    images: per iteration; if set, progress is shown and speed logged in images.
    remedies: patterns of tensor names, each with advice for a tensor that is not finite; the first
        match counts, and the last pattern must match every name.
    """

    trained: Trained
    total: int
    evaluate_every: int
    data: str
    fingerprint: str
    images: int | None = None
    remedies: ClassVar[Sequence[tuple[str, str]]]

    @abstractmethod
    def step(self, done: int, meter: Meter) -> None:
        """Runs the iteration after `done` completed ones. Does not synchronise with the device."""

    @abstractmethod
    def evaluate(self, now: int, logger: Logger) -> Evaluation:
        """Evaluates after `now` iterations; called on all ranks."""

    @abstractmethod
    def best(self, progress: Progress) -> str:
        """Returns the best result in words, for the final message; "" if nothing was measured."""

    def place(self, iteration: int) -> str:
        """Returns the position in the run, in words."""
        return f"iteration {iteration} of {self.total}"

    def notes(self, now: int) -> dict[str, float]:
        """Returns values to log besides the means of the losses; called on rank 0."""
        return {}

    def hooks(self, logger: Logger) -> list[Hook]:
        """Returns further callbacks between iterations."""
        return []

    @abstractmethod
    def show(self, status: Status) -> None:
        """Shows people where the run is; called on rank 0 between iterations: at the start, after
        the task's hooks and evaluations, and at the end."""

    @classmethod
    def remedy(cls, name: str) -> str:
        """Returns advice for a tensor of this name that is not finite."""
        return next(advice for pattern, advice in cls.remedies if re.search(pattern, name))
