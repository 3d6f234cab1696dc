"""A run from start to end: the training loop of a `Task` (gan_vkd/runtime/task.py)."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

from tqdm import tqdm

from gan_vkd.runtime import ranks
from gan_vkd.runtime.bars import progress_bar
from gan_vkd.runtime.devices import pick_device
from gan_vkd.runtime.errors import one_line, one_line_without_memory
from gan_vkd.runtime.folder import RunFolder
from gan_vkd.runtime.graphs import own_stream
from gan_vkd.runtime.loggers import LOGGERS
from gan_vkd.runtime.loggers.interface import Logger
from gan_vkd.runtime.memory import peak_memory
from gan_vkd.runtime.meter import Meter
from gan_vkd.runtime.progress import Diverged, Progress, RunState, is_finished
from gan_vkd.runtime.settings import RunSettings
from gan_vkd.runtime.stopping import End, Stop, Stopped
from gan_vkd.runtime.task import Hook, Status, Task
from gan_vkd.runtime.terminal import result

AnySettings = TypeVar("AnySettings", bound=RunSettings)
AnyFolder = TypeVar("AnyFolder", bound=RunFolder)


def run_to_end(
    build: Callable[[AnySettings, AnyFolder, str], Task],
    settings: AnySettings,
    run: AnyFolder,
    resume: bool = False,
    max_time: float | None = None,
) -> None:
    """Trains a run to its last iteration and writes all results to the run folder.

    Started by torchrun, the ranks share each batch.

    Args:
        build: makes the task from the settings, the folder and the device; missing files are
            reported there.
        settings: of the run.
        run: a new folder, or with `resume` that of a stopped run.
        resume: continue from the newest checkpoint, or start if there is none.
        max_time: seconds after which the run stops, with a checkpoint.

    Raises:
        SettingsError: the folder holds a run without `resume`, or one with other settings.
        Stopped: by a signal or by `max_time`, after a checkpoint.
        VkdError: unusable data or weights, no disk space or memory, a folder in use, or values
            that are not finite.
    """
    stop = Stop(max_time, parent=os.getppid() if ranks.launched() else None)
    advice = f"{settings.relief}; the last checkpoint is intact"

    def finished() -> bool:
        return is_finished(run, settings, resume)

    with ranks.joined(), one_line_without_memory(advice):
        if ranks.from_first(finished):
            result(f"{run.path}: finished already ({settings.length})", run=run.path)
            return
        with run.locked(), stop.listening():
            if ranks.from_first(finished):
                return  # by the process that held the lock before
            device = pick_device(settings.device)
            with own_stream(device):
                task = build(settings, run, device)
                data = task.data, task.fingerprint
                state = RunState(run, task.trained, settings, device, data)
                state.begin(resume, task.total)
                together = f"{ranks.world()} ranks, " if ranks.world() > 1 else ""
                done = state.progress.iteration
                print(
                    f"{run.path}: {task.data}, {together}{device}, {task.trained.precision}, "
                    f"arm {settings.arm}, seed {settings.seed}, from {task.place(done)}"
                )
                shown = settings.train.logger.chosen if ranks.is_first() else "none"
                made = LOGGERS.make(shown, run.path, done + 1)
                with closing(made) as logger, _shown_if_failed(task, state):
                    end = Training(task, state, stop, logger).loop()
            _report_end(run, task, state.progress, end)


@contextmanager
def _shown_if_failed(task: Task, state: RunState) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if ranks.is_first():
            word = "diverged" if isinstance(error, Diverged) else "failed"
            place = task.place(state.progress.iteration)
            task.show(Status(word, f"{place}, {one_line(error)}"))
        raise


def _report_end(run: RunFolder, task: Task, progress: Progress, end: End) -> None:
    """Prints and records how the run ended; raises `Stopped` if it is not finished."""
    if ranks.is_first():
        run.record_end(end)
        word = "finished" if end is End.FINISHED else "stopped"
        task.show(Status(word, task.place(progress.iteration)))
    # what scripts are told of the run: where it is, how far it came, its best loss
    kept = {"iteration", "seconds", "best", "best_iteration"}
    result(run=run.path, **progress.model_dump(include=kept))
    if end is End.FINISHED:
        best = task.best(progress)
        took = f"{progress.seconds:.0f} s of training"
        result(f"{run.path}: finished, {took}{best and f', best {best}'}")
        return
    why = "out of time" if end is End.OUT_OF_TIME else "stopped"
    text = f"{why} at {task.place(progress.iteration)}, checkpoint written; continue with --resume"
    raise Stopped(
        f"{run.path}: {text}" if ranks.is_first() else "",
        0 if ranks.launched() else end,  # torchrun restarts a failed process
    )


class Training:
    """The training loop, with its hooks between iterations.

    After an iteration the hooks that are due are called in order: record, the task's own,
    evaluation, checkpoint; what the task's own and an evaluation made is then shown (`Task.show`).
    Values that were not finite cause a rollback to the last checkpoint instead; after the hooks,
    the loop ends if a stop was requested.
    """

    def __init__(self, task: Task, state: RunState, stop: Stop, logger: Logger) -> None:
        self.task, self.state, self.stop, self.logger = task, state, stop, logger
        self.run, self.settings = state.run, state.settings
        self.end = End.FINISHED
        self._mark()
        self._shown: dict[str, str] = {}
        train = self.settings.train
        self.shown = [
            *task.hooks(logger),
            Hook(task.evaluate_every, self._evaluate, every_rank=True),
        ]
        self.hooks = [
            Hook(train.log_every, self._record, every_rank=True),
            *self.shown,
            Hook(train.checkpoint_every, self._checkpoint, every_rank=True),
        ]

    @property
    def meter(self) -> Meter:
        return self.state.meter

    @property
    def progress(self) -> Progress:
        return self.state.progress

    def loop(self) -> End:
        """Trains to the last iteration or until a stop is requested; returns which."""
        task, total, images = self.task, self.task.total, self.task.images or 1
        started = self.progress.iteration
        if started == 0 and self.settings.train.rollbacks:
            self._save()  # for a rollback before the first checkpoint is due
        if 0 < started != self.progress.evaluated and self._is_due(task.evaluate_every, started):
            self._evaluate(started)  # the run was killed between checkpoint and evaluation
        begun = time.perf_counter()
        self._show(None)
        with progress_bar(
            desc=self.settings.arm, total=total * images, initial=started * images,
            unit=" images" if task.images else "it", leave=True,
        ) as bar:  # fmt: skip
            since = time.perf_counter()
            while self.progress.iteration < total:
                now = self.progress.iteration + 1
                self.meter.begin(now)
                task.step(now - 1, self.meter)
                self.progress.iteration = now
                bar.update(images)
                self.end = End(ranks.largest(self.stop.end))
                due = [h for h in self.hooks if self._is_due(h.period, now) or h.is_early(now)]
                if not due and self.end is End.FINISHED:
                    continue
                fault = self.meter.fault()  # synchronises with the device
                self.progress.seconds += time.perf_counter() - since
                if fault is not None:
                    self._roll_back(fault)
                    bar.n = self.progress.iteration * images
                else:
                    for hook in due:
                        if hook.every_rank or ranks.is_first():
                            hook.call(now)
                    if any(hook in self.shown for hook in due) and now < total:
                        pace = (time.perf_counter() - begun) / max(now - started, 1)
                        self._show(pace * (total - now))
                    bar.set_postfix(self._shown, refresh=False)
                    if self.end is not End.FINISHED and now < total:
                        self._checkpoint(now)
                        return self.end
                since = time.perf_counter()
        return End.FINISHED

    def _show(self, left: float | None) -> None:
        """left: estimated seconds to the end."""
        if ranks.is_first():
            place = self.task.place(self.progress.iteration)
            self.task.show(Status("running", place, left))

    def _is_due(self, period: int, now: int) -> bool:
        return now % period == 0 or now == self.task.total

    def _roll_back(self, fault: tuple[str, int]) -> None:
        """Rolls back to the last checkpoint, with the values logged until then."""
        self.state.roll_back(fault, self.task.remedy(fault[0]))
        self._mark()

    def _mark(self) -> None:
        """Takes the current iteration as that of the last checkpoint and the start of the pace."""
        self._saved = self.progress.iteration
        self._paced = self.progress.iteration, self.progress.seconds

    def _record(self, now: int) -> None:
        """Logs the means since the last record."""
        means = self.meter.take()
        if not ranks.is_first():
            return
        self._shown = {k: f"{v:.3g}" for k, v in means.items() if "loss" in k}
        memory = {"memory_gib": round(peak_memory(self.state.device) / 2**30, 3)}
        record = means | self._pace(now) | self.task.notes(now) | memory
        self.run.append("metrics", self._stamp(now) | record)
        self.logger.scalars("train", record, now)

    def _pace(self, now: int) -> dict[str, float]:
        """Returns images per second of training since the last record, and the hours left."""
        (before, then), self._paced = self._paced, (now, self.progress.seconds)
        if self.task.images is None:
            return {}
        pace = (now - before) * self.task.images / max(self.progress.seconds - then, 1e-9)
        left = (self.task.total - now) * self.task.images / pace / 3600
        return {"images_per_second": round(pace, 1), "hours_left": round(left, 4)}

    def _evaluate(self, now: int) -> None:
        """Evaluates, exports if it is the best so far, and writes a checkpoint afterwards."""
        progress = self.progress
        if self.end is not End.FINISHED and now < self.task.total:
            self._save()  # the process may be killed before the evaluation ends
        found = self.task.evaluate(now, self.logger)
        # As long as the loss was never defined, the latest evaluation counts as the best
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
        """Writes a checkpoint, unless the evaluation has just done so."""
        if self._saved != now:
            self._save()

    def _save(self) -> None:
        self.state.save()
        self._saved = self.progress.iteration

    def _stamp(self, now: int) -> dict[str, float]:
        """Returns the first keys of every record: the iteration and the seconds of training."""
        return {"iteration": now, "seconds": round(self.progress.seconds, 3)}
