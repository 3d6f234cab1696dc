"""A run from start to end. What is trained is a `Task` (gan_vkd/runtime/task.py)."""

import math
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from tqdm import tqdm

from gan_vkd.runtime import ranks
from gan_vkd.runtime.devices import pick_device
from gan_vkd.runtime.errors import one_line_without_memory
from gan_vkd.runtime.folder import RunFolder
from gan_vkd.runtime.loggers import LOGGERS
from gan_vkd.runtime.loggers.interface import Logger
from gan_vkd.runtime.meter import Meter
from gan_vkd.runtime.progress import Progress, RunState, is_finished
from gan_vkd.runtime.settings import RunSettings
from gan_vkd.runtime.stopping import End, Stop, Stopped
from gan_vkd.runtime.task import Hook, Task

AnySettings = TypeVar("AnySettings", bound=RunSettings)
AnyFolder = TypeVar("AnyFolder", bound=RunFolder)


def run_to_end(
    build: Callable[[AnySettings, AnyFolder, str], Task],
    settings: AnySettings,
    run: AnyFolder,
    resume: bool = False,
    max_time: float | None = None,
) -> None:
    """Trains until all iterations are done and leaves everything in the run folder.

    Started by torchrun, the ranks share each batch.

    Args:
        build: makes the task of the settings, in the folder, on the device; everything that can
            fail for want of a file fails there.
        settings: of the run.
        run: a new folder, or with `resume` that of a run that was stopped.
        resume: continue from the newest checkpoint, or start where there is none.
        max_time: seconds after which the run stops, with a checkpoint.

    Raises:
        SettingsError: the folder holds a run already, or one with other settings.
        Stopped: by a signal or by `max_time`, after a checkpoint.
        VkdError: data, weights, disk, memory, a folder in use, or numbers that are not finite.
    """
    stop = Stop(max_time)
    advice = f"{settings.relief}; the last checkpoint is whole"

    def finished() -> bool:
        return is_finished(run, settings, resume)

    with ranks.joined(), one_line_without_memory(advice):
        if ranks.from_first(finished):
            print(f"{run.path}: finished already ({settings.length})")
            return
        with run.locked(), stop.listening():
            if ranks.from_first(finished):
                return  # by the process that held the folder before
            device = pick_device(settings.device)
            task = build(settings, run, device)
            data = task.data, task.fingerprint
            state = RunState(run, task.trained, settings, device, data)
            state.begin(resume, task.total)
            together = f"{ranks.world()} ranks, " if ranks.world() > 1 else ""
            done = state.progress.iteration
            print(
                f"{run.path}: {task.data}, {together}{device}, arm {settings.arm}, seed "
                f"{settings.seed}, from {task.place(done)}"
            )
            shown = settings.train.logger.chosen if ranks.is_first() else "none"
            with closing(LOGGERS.make(shown, run.path, done + 1)) as logger:
                end = Training(task, state, stop, logger).loop()
            _leave(run, task, state.progress, end)


def _leave(run: RunFolder, task: Task, progress: Progress, end: End) -> None:
    """Says and records how the run ended; raises `Stopped` where it is not finished."""
    if ranks.is_first():
        run.record_end(end)
    if end is End.FINISHED:
        best = task.best(progress)
        print(
            f"{run.path}: finished, {progress.seconds:.0f} s of training{best and f', best {best}'}"
        )
        return
    why = "out of its time" if end is End.OUT_OF_TIME else "stopped"
    text = f"{why} at {task.place(progress.iteration)}, checkpoint written; continue with --resume"
    raise Stopped(
        f"{run.path}: {text}" if ranks.is_first() else "",
        0 if ranks.launched() else end,  # torchrun starts anew what fails
    )


class Training:
    """The iterations, and what is due between them.

    After an iteration the hooks that are due are called in their order: a record, the task's own,
    an evaluation, a checkpoint. Before that, numbers that were not finite lead back to the last
    checkpoint; after it, the loop ends where that was asked for.
    """

    def __init__(self, task: Task, state: RunState, stop: Stop, logger: Logger) -> None:
        self.task, self.state, self.stop, self.logger = task, state, stop, logger
        self.run, self.settings = state.run, state.settings
        self.end = End.FINISHED
        self._mark()
        self._shown: dict[str, str] = {}
        train = self.settings.train
        self.hooks = [
            Hook(train.log_every, self._record, every_rank=True),
            *task.hooks(logger),
            Hook(task.evaluate_every, self._evaluate, every_rank=True),
            Hook(train.checkpoint_every, self._checkpoint, every_rank=True),
        ]

    @property
    def meter(self) -> Meter:
        return self.state.meter

    @property
    def progress(self) -> Progress:
        return self.state.progress

    def loop(self) -> End:
        """Iterates until all is done or the end was asked for."""
        task, total, images = self.task, self.task.total, self.task.images or 1
        started = self.progress.iteration
        if started == 0 and self.settings.train.returns:
            self._save()  # to go back to, before the first that is due
        if 0 < started != self.progress.evaluated and self._is_due(task.evaluate_every, started):
            self._evaluate(started)  # it was killed between a checkpoint and its evaluation
        bar = tqdm(
            total=total * images, initial=started * images, desc=self.settings.arm,
            unit=" images" if task.images else "it", dynamic_ncols=True,
            mininterval=0.5 if sys.stderr.isatty() else 5, disable=not ranks.is_first(),
        )  # fmt: skip
        with bar:
            since = time.perf_counter()
            while self.progress.iteration < total:
                self.meter.iteration = now = self.progress.iteration + 1
                task.step(now - 1, self.meter)
                self.progress.iteration = now
                bar.update(images)
                self.end = End(ranks.largest(self.stop.end))
                due = [hook for hook in self.hooks if self._is_due(hook.period, now)]
                if not due and self.end is End.FINISHED:
                    continue
                fault = self.meter.fault()  # which waits for the device
                self.progress.seconds += time.perf_counter() - since
                if fault is not None:
                    self._go_back(fault)
                    bar.n = self.progress.iteration * images
                else:
                    for hook in due:
                        if hook.every_rank or ranks.is_first():
                            hook.call(now)
                    bar.set_postfix(self._shown, refresh=False)
                    if self.end is not End.FINISHED and now < total:
                        self._checkpoint(now)
                        return self.end
                since = time.perf_counter()
        return End.FINISHED

    def _is_due(self, period: int, now: int) -> bool:
        return now % period == 0 or now == self.task.total

    def _go_back(self, fault: tuple[str, int]) -> None:
        """Nothing is recorded or kept of numbers that are not finite."""
        self.state.go_back(fault, self.task.remedy(fault[0]))
        self._mark()

    def _mark(self) -> None:
        """The last checkpoint, and the last record that a pace is told from, are here."""
        self._saved = self.progress.iteration
        self._paced = self.progress.iteration, self.progress.seconds

    def _record(self, now: int) -> None:
        means = self.meter.take()
        if not ranks.is_first():
            return
        self._shown = {k: f"{v:.3g}" for k, v in means.items() if "loss" in k}
        record = means | self._pace(now) | self.task.notes(now)
        self.run.append("metrics", self._stamp(now) | record)
        self.logger.scalars("train", record, now)

    def _pace(self, now: int) -> dict[str, float]:
        """Since the last record, where it is told in images; this is training alone."""
        (before, then), self._paced = self._paced, (now, self.progress.seconds)
        if self.task.images is None:
            return {}
        pace = (now - before) * self.task.images / max(self.progress.seconds - then, 1e-9)
        left = (self.task.total - now) * self.task.images / pace / 3600
        return {"images_per_second": round(pace, 1), "hours_left": round(left, 4)}

    def _evaluate(self, now: int) -> None:
        """Measures, exports the best, and writes a checkpoint afterwards."""
        progress = self.progress
        if self.end is not End.FINISHED and now < self.task.total:
            self._save()  # who asked for the end may not wait for that of an evaluation
        found = self.task.evaluate(now, self.logger)
        # While the measure was never defined, the last counts as the best
        best = found.loss < progress.best or progress.best == math.inf
        if best:
            progress.best, progress.best_iteration = found.loss, now
        if ranks.is_first():
            self.logger.scalars("evaluate", found.record, now)
            if found.text:
                tqdm.write(found.text)
            if best:
                found.export()
            if found.record:
                self.run.append("metrics", self._stamp(now) | found.record)
        progress.evaluated = now
        self._save()

    def _checkpoint(self, now: int) -> None:
        """Writes one, where the evaluation has not."""
        if self._saved != now:
            self._save()

    def _save(self) -> None:
        self.state.save()
        self._saved = self.progress.iteration

    def _stamp(self, now: int) -> dict[str, float]:
        """What every record begins with: the iteration, and seconds of training before it."""
        return {"iteration": now, "seconds": round(self.progress.seconds, 3)}
