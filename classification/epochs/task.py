"""A run by epochs, for any task: its iterations, records and evaluations."""

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from torch import nn

from classification.epochs.update import Updates
from gan_vkd.report.page.write import ProgressPage
from gan_vkd.runtime.loggers.interface import Logger
from gan_vkd.runtime.meter import Meter
from gan_vkd.runtime.progress import Progress
from gan_vkd.runtime.task import Evaluation, Status, Task


class EpochTask(Task):
    """A network that is trained by epochs, and measured on held-out images where there are any.

    Args:
        learner: the network, its optimiser and the state of a checkpoint.
        feed: maps the number of an update to its batch.
        data: description of the training data.
        evaluate_every: epochs between evaluations; None: no evaluation, the last network is
            exported.
        page: shows where the run is.
    """

    # networks by name, for --dry-run
    networks: dict[str, nn.Module | None]
    # measures in percent by key, with the names shown; the first one selects the best network
    shown: ClassVar[dict[str, str]]

    def __init__(
        self,
        learner: Updates[Any, Any],
        feed: Callable[[int], Any],
        data: str,
        evaluate_every: int | None,
        page: ProgressPage,
    ) -> None:
        self.page = page
        self.trained = self.learner = learner
        self.feed, self.data, self.is_measured = feed, data, evaluate_every is not None
        train = learner.settings.train
        self.total, self.epochs, self.images = learner.total, train.epochs, train.batch_size
        self.evaluate_every = (evaluate_every or self.epochs) * learner.per_epoch

    def place(self, iteration: int) -> str:
        return f"epoch {iteration / self.learner.per_epoch:.4g} of {self.epochs}"

    def step(self, done: int, meter: Meter) -> None:
        meter.add(self.learner.step(self.feed(done), done))
        meter.watch(self.learner.decompositions())

    def show(self, status: Status) -> None:
        self.page(status)

    def notes(self, now: int) -> dict[str, float]:
        return {"epoch": now / self.learner.per_epoch, "lr": self.learner.rate.now}

    def evaluate(self, now: int, logger: Logger) -> Evaluation:
        epoch = {"epoch": now / self.learner.per_epoch}
        if not self.is_measured:
            return Evaluation(math.inf, partial(self.export, epoch))
        found = self.measure()
        measures = [f"{name} {found[key]:.2f}%" for key, name in self.shown.items() if key in found]
        loss = 100 - found.get(next(iter(self.shown)), -math.inf)
        record, text = epoch | found, f"epoch {epoch['epoch']:g}: {', '.join(measures)}"
        return Evaluation(loss, partial(self.export, record), record, text)

    def best(self, progress: Progress) -> str:
        name = next(iter(self.shown.values()))
        return f"{name} {100 - progress.best:.2f}%" if progress.best < math.inf else ""

    @abstractmethod
    def measure(self) -> dict[str, Any]:
        """Measures the network on the held-out images; called on all ranks."""

    @abstractmethod
    def export(self, facts: dict[str, Any]) -> None:
        """Writes the network and its measures."""
