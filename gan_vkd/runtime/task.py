"""What is trained: the interface between a run (gan_vkd/runtime/training.py) and its networks."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gan_vkd.runtime.loggers.interface import Logger
from gan_vkd.runtime.meter import Meter
from gan_vkd.runtime.progress import Progress, Trained


@dataclass(frozen=True)
class Hook:
    """Something that is done every `period` iterations and after the last one.

    call: gets the number of iterations that were done.
    every_rank: call it on all ranks; otherwise on the first one alone.
    """

    period: int
    call: Callable[[int], None]
    every_rank: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    loss: the measure that the best is chosen by; the less, the better. inf: not defined.
    export: writes the files of the best; called on the first rank, where this is the best.
    record: for metrics.jsonl; empty where nothing was measured.
    text: for the terminal.
    """

    loss: float
    export: Callable[[], None]
    record: dict[str, Any] = field(default_factory=dict)
    text: str = ""


class Task(ABC):
    """Networks, data and measures of a run, made of its settings, its folder and a device.

    What can fail for want of a file fails when it is made: with SettingsError for settings that do
    not fit the data, the ranks or each other, with VkdError for data or weights.

    trained: what a checkpoint holds.
    total: iterations of the whole run.
    evaluate_every: iterations.
    data: what is trained on, in words.
    fingerprint: digest of what is trained on, which a resumed run must have too.
    images: of one iteration; the pace is then told in images, not in iterations.
    remedies: patterns of tensors' names, and what may help where such a tensor is not finite; the
        first pattern that is found counts, and the last fits every name.
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
        """One iteration after `done` others; it does not wait for the device."""

    @abstractmethod
    def evaluate(self, now: int, logger: Logger) -> Evaluation:
        """Measures after `now` iterations; called on all ranks."""

    @abstractmethod
    def best(self, progress: Progress) -> str:
        """The best measure in words, for the last line; "" where nothing was measured."""

    def place(self, iteration: int) -> str:
        """How far a run is, in words."""
        return f"iteration {iteration} of {self.total}"

    def notes(self, now: int) -> dict[str, float]:
        """What a record says beside the means of the losses; called on the first rank."""
        return {}

    def hooks(self, logger: Logger) -> list[Hook]:
        """What else is to be done between iterations."""
        return []

    @classmethod
    def remedy(cls, name: str) -> str:
        """What may help against a tensor of that name that is not finite."""
        return next(advice for pattern, advice in cls.remedies if re.search(pattern, name))
