"""The loop of every training: progress, reports, evaluations, checkpoints, returns and stops."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gan_vkd.runtime import ranks
from gan_vkd.runtime.board import Board
from gan_vkd.runtime.finite import Watch
from gan_vkd.runtime.folder import RunFolder
from gan_vkd.runtime.progress import Progress, Trained, return_to_last, save
from gan_vkd.runtime.settings import RunSettings
from gan_vkd.runtime.stopping import OUT_OF_TIME, Stop, Stopped


class Loop:
    """`for done in loop:` gives the number of iterations before each, until all are done.

    The body does one iteration and tells its numbers by `add` and `watch`, which do not wait for
    the device. Between two iterations the loop does what is due: a record, other reports, an
    evaluation, a checkpoint. It goes back from numbers that are not finite, and stops when asked.

    Args:
        run: where the records go.
        trained: what a checkpoint holds.
        settings: of the run.
        device: that it trains on.
        stop: what may ask for the end.
        progress: where it starts.
        remedy: what may help against a tensor of some name that is not finite.
        images: of one iteration; the pace is then told in images, not in iterations.
    """

    def __init__(
        self,
        run: RunFolder,
        trained: Trained,
        settings: RunSettings,
        device: str,
        stop: Stop,
        progress: Progress,
        remedy: Callable[[str], str],
        images: int | None = None,
    ) -> None:
        self.run, self.trained, self.settings, self.device = run, trained, settings, device
        self.stop, self.progress, self.remedy = stop, progress, remedy
        self.images = images
        self.board: Board | None = None
        self.meter, self.sight = Meter(), Watch()
        self._now = progress.iteration
        self._told = progress.iteration, progress.seconds
        self._notes: dict[str, float] = {}
        self._beside: list[Callable[[], dict[str, float]]] = []
        self._reports: list[tuple[int, Callable[[int], None]]] = []
        self._evaluate: tuple[int, Callable[[int], None]] = (progress.total, lambda now: None)

    def every(self, period: int, report: Callable[[int], None]) -> None:
        """Calls report(iteration) every so many iterations and at the end, on the first rank."""
        self._reports.append((period, report))

    def evaluate_every(self, period: int, evaluate: Callable[[int], None]) -> None:
        """Calls evaluate(iteration) likewise, on all ranks, and writes a checkpoint after it."""
        self._evaluate = (period, evaluate)

    def add(self, losses: dict[str, Tensor]) -> None:
        """Numbers of this iteration, watched, and recorded as means since the last record."""
        self.meter.add(losses)
        self.watch(losses)

    def note(self, values: dict[str, float]) -> None:
        """Numbers of this iteration that lie on the host, to stand beside the means."""
        self._notes = values

    def beside(self, measure: Callable[[], dict[str, float]]) -> None:
        """Calls measure() for every record, on the first rank, and puts its numbers into it."""
        self._beside.append(measure)

    def watch(self, tensors: dict[str, Tensor]) -> None:
        """Tensors that must be finite."""
        self.sight.look(tensors, self._now)

    def __iter__(self) -> Iterator[int]:
        progress, total, images = self.progress, self.progress.total, self.images or 1
        if ranks.is_first():
            self.board = Board(self.run.path / "tensorboard", progress.iteration + 1)
        bar = tqdm(
            total=total * images, initial=progress.iteration * images, desc=self.settings.arm,
            unit=" images" if self.images else "it", dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 5, disable=not ranks.is_first(),
        )  # fmt: skip
        with bar:
            if 0 < progress.iteration != progress.evaluated and self._due(self._evaluate[0]):
                self._keep(stopping=0)  # it was killed between a checkpoint and its evaluation
            tick = time.perf_counter()
            while self.progress.iteration < total:
                self._now = self.progress.iteration + 1
                yield self.progress.iteration
                self.progress.iteration = self._now
                bar.update(images)
                stopping = ranks.largest(self.stop.exit_code)
                if not (stopping or self._anything_due()):
                    continue
                fault = self._fault()  # which waits for the device
                self.progress.seconds += time.perf_counter() - tick
                if fault is not None:
                    self._go_back(fault)
                    bar.n = self.progress.iteration * images
                else:
                    self._report(bar)
                    self._keep(stopping)
                tick = time.perf_counter()
        if self.board is not None:
            self.board.close()

    def _due(self, period: int) -> bool:
        return self._now % period == 0 or self._now == self.progress.total

    def _anything_due(self) -> bool:
        train = self.settings.train
        periods = [train.log_every, train.checkpoint_every, self._evaluate[0]]
        return any(map(self._due, periods + [period for period, _ in self._reports]))

    def _fault(self) -> tuple[str, int] | None:
        """The first tensor of any rank that is not finite, and its iteration."""
        faults = [fault for fault in ranks.all_parts(self.sight.fault()) if fault]
        return min(faults, key=lambda fault: fault[1], default=None)

    def _go_back(self, fault: tuple[str, int]) -> None:
        """Nothing is reported or kept of numbers that are not finite."""
        self.progress = return_to_last(
            self.run, self.trained, self.settings, self.device, self.progress, fault,
            self.remedy(fault[0]),
        )  # fmt: skip
        self.meter, self.sight = Meter(), Watch()
        self._told = self.progress.iteration, self.progress.seconds

    def _report(self, bar: "tqdm[Any]") -> None:
        now = self._now
        logging = self._due(self.settings.train.log_every)
        means = self.meter.take() if logging else {}
        if self.board is None:
            return
        if logging:
            shown = {k: f"{v:.3g}" for k, v in means.items() if "loss" in k}
            means |= self._notes | self._pace()
            for measure in self._beside:
                means |= measure()
            self.run.append("metrics", self.stamp() | means)
            self.board.scalars("train", means, now)
            bar.set_postfix(shown, refresh=False)
        for period, report in self._reports:
            if self._due(period):
                report(now)

    def _pace(self) -> dict[str, float]:
        """Since the last record, where it is told in images; this is training alone."""
        (before, then), self._told = self._told, (self._now, self.progress.seconds)
        if self.images is None:
            return {}
        pace = (self._now - before) * self.images / max(self.progress.seconds - then, 1e-9)
        left = (self.progress.total - self._now) * self.images / pace / 3600
        return {"images_per_second": round(pace, 1), "hours_left": round(left, 4)}

    def _keep(self, stopping: int) -> None:
        """Evaluates and writes checkpoints; ends the run where that was asked for."""
        now, total, train = self._now, self.progress.total, self.settings.train
        evaluating = self._due(self._evaluate[0])
        if evaluating and stopping and now < total:  # who asked may not wait for its end
            self._save()
        if evaluating:
            self._evaluate[1](now)
            self.progress.evaluated = now
        if evaluating or stopping or self._due(train.checkpoint_every):
            self._save()
        if stopping and now < total:
            why = "out of its time" if stopping == OUT_OF_TIME else "stopped"
            code = 0 if ranks.launched() else stopping  # torchrun starts anew what fails
            if not ranks.is_first():
                sys.exit(code)
            raise Stopped(
                f"{self.run.path}: {why} at iteration {now} of {total}, checkpoint written; "
                "continue with --resume", code,
            )  # fmt: skip

    def _save(self) -> None:
        save(self.run, self.trained, self.progress, self.settings, self.device)

    def stamp(self) -> dict[str, float]:
        """What every record begins with: the iteration, and seconds of training before it."""
        return {"iteration": self._now, "seconds": round(self.progress.seconds, 3)}


class Meter:
    """Means of the reported numbers, kept on the device: adding never waits for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means since the last call, over all ranks; this waits for the device."""
        names = list(self.sums)
        if not names:
            return {}
        means = torch.stack([self.sums[n] / self.counts[n] for n in names])
        self.sums, self.counts = {}, {}
        return dict(zip(names, ranks.mean(means).tolist(), strict=True))
