"""A run's life: set up, resume, step, log, sample, evaluate, checkpoint, stop."""

import platform
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import gan_vkd
from gan_vkd.config import Settings, differences
from gan_vkd.data import Batches, ImageSet, load_heldout_set, load_training_set
from gan_vkd.errors import SettingsError, VkdError
from gan_vkd.evaluation import Evaluator
from gan_vkd.features import load_bank
from gan_vkd.gan import GAN
from gan_vkd.pictures import class_grid, grid, save_png
from gan_vkd.run import Run, pick_device
from gan_vkd.scores import Scores, save_histogram, summary
from gan_vkd.teachers import load_teacher
from gan_vkd.text import class_embeddings

# What may change when a run is continued: its length and how often it reports.
MAY_CHANGE = (
    "device", "train.iterations", "train.log_every", "train.sample_every",
    "train.checkpoint_every", "evaluate.every", "data.root", "data.download",
    "cache",
)  # fmt: skip


class Stopped(VkdError):
    """The run was asked to stop and did, with a checkpoint; `exit_code` is 128 + the signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def train(settings: Settings, folder: Path, resume: bool = False) -> None:
    """Trains to `train.iterations` and leaves everything in the run folder.

    Args:
        settings: of the run.
        folder: new, or with `resume` the folder of a run that was stopped.
        resume: continue from the newest checkpoint, or start where there is none.

    Raises:
        SettingsError: the folder holds a run already, or one with other settings.
        Stopped: by SIGINT or SIGTERM, after a checkpoint.
        VkdError: data, weights, disk, memory, or a loss that is not finite.
    """
    run = Run(folder)
    total = settings.train.iterations
    if is_finished(run, settings, resume):
        print(f"{run.path}: finished already ({total} iterations)")
        return

    # Set up: everything that can fail for want of a file fails here
    device = pick_device(settings.device)
    data, heldout = load_training_set(settings.data), load_heldout_set(settings.data)
    classes = _count_classes(settings, data)
    shares = (torch.bincount(data.labels) / len(data)).tolist() if classes else [1.0]
    labelled = data if classes else ImageSet(data.images, data.labels * 0, [""], data.names)
    teacher, text, bank = None, None, None
    if settings.distill is not None:
        distill = settings.distill
        layers = [pair.teacher or distill.teacher for pair in distill.pairs]
        teacher = load_teacher(distill.teacher, settings.data.resolution, device, layers)
        if distill.method == "kd_dlgm":
            text = class_embeddings(distill.text, teacher, data.classes)
        bank = partial(load_bank, teacher, data, settings.data.flip, settings.cache_folder)
    torch.manual_seed(settings.seed)
    try:
        gan = GAN(settings, classes, device, teacher, bank, text)
    except ValueError as error:
        raise SettingsError(f"distill: {error}") from None
    at_hand = {"heldout": heldout, "train": data}.get(settings.evaluate.reference)
    evaluator = Evaluator(settings, device, reference=at_hand, training=data)
    probe = Scores(labelled, heldout, settings.evaluate.seed)
    batches = Batches(
        labelled,
        settings.train.batch_size,
        flip=settings.data.flip,
        seed=settings.seed,
        device=device,
    )

    # Resume, or write the settings into a new folder
    progress = Progress()
    saved = run.latest_state() if resume else None
    if saved is not None:
        try:
            gan.load_state(saved["gan"])
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise VkdError(
                f"{run.path}: its checkpoint is of another version of this project ({reason}); "
                "continue it with that version, or train anew elsewhere"
            ) from None
        progress = Progress(**saved["progress"])
        _set_random_state(saved["random"])
    run.write_settings(settings)
    run.truncate("metrics", progress.iteration)
    print(
        f"{run.path}: {len(data)} images, {max(classes, 1)} classes, {device}, arm "
        f"{settings.arm}, seed {settings.seed}, from iteration {progress.iteration} of {total}"
    )

    writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=progress.iteration + 1)
    meter = Meter(device)
    bar = tqdm(
        total=total, initial=progress.iteration, unit="it", desc=settings.arm, dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 5,
    )  # fmt: skip
    with _stop_signals() as stop, _out_of_memory(settings), writer, bar:
        tick = time.perf_counter()
        while progress.iteration < total:
            # One iteration: d_steps updates of the discriminator, one of the generator
            done, now = progress.iteration, progress.iteration + 1
            for number in range(done * settings.train.d_steps, now * settings.train.d_steps):
                batch = batches(number)
                fake_labels = batches.random_labels(len(batch.labels))
                meter.add(gan.discriminator_step(batch, fake_labels, number), now)
            labels = batches.random_labels(settings.train.batch_size)
            meter.add(gan.generator_step(labels, done), now)
            progress.iteration = now
            bar.update()

            last = now == total
            stopping = bool(stop)
            due = {
                name: now % getattr(settings.train, f"{name}_every") == 0 or last
                for name in ("log", "sample", "checkpoint")
            }
            evaluating = now % settings.evaluate.every == 0 or last
            if any(due.values()) or evaluating or stopping:
                means = meter.take()
                _require_finite(meter, run)
                progress.seconds += time.perf_counter() - tick
                if due["log"]:
                    record = {"iteration": now, "seconds": round(progress.seconds, 3)} | means
                    run.append("metrics", record)
                    for name, value in means.items():
                        writer.add_scalar(f"train/{name}", value, now)
                    losses = {k: f"{v:.3g}" for k, v in means.items() if "loss" in k}
                    bar.set_postfix(losses, refresh=False)
                if due["sample"]:
                    picture = class_grid(gan.average, shares)
                    save_png(picture, run.path / "samples" / f"{now:08d}.png")
                    writer.add_image("samples", picture, now)
                if evaluating:
                    _evaluate(run, gan, evaluator, probe, shares, progress, writer)
                if due["checkpoint"] or evaluating or stopping:
                    run.save(now, _state(gan, progress, settings))
                if stopping and not last:
                    raise Stopped(
                        f"{run.path}: stopped at iteration {now} of {total}, checkpoint written; "
                        "continue with --resume", stop[0],
                    )  # fmt: skip
                tick = time.perf_counter()
    print(
        f"{run.path}: finished, {progress.seconds:.0f} s of training, best "
        f"{evaluator.extractor.frechet_name} {progress.best:.3f} at iteration "
        f"{progress.best_iteration}"
    )


class Progress:
    """Where a run stands; saved with every checkpoint."""

    def __init__(
        self,
        iteration: int = 0,
        seconds: float = 0.0,
        best: float = float("inf"),
        best_iteration: int = 0,
    ) -> None:
        self.iteration, self.seconds = iteration, seconds
        self.best, self.best_iteration = best, best_iteration


class Meter:
    """Means of the reported numbers, kept on the device: adding never waits for it.

    `bad` is the first iteration with a number that is not finite, -1 while there is none.
    """

    def __init__(self, device: str) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.bad = torch.full((), -1, dtype=torch.int64, device=device)

    def add(self, values: dict[str, Tensor], iteration: int) -> None:
        for name, value in values.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
            newly = (self.bad < 0) & ~torch.isfinite(value)
            self.bad = torch.where(newly, iteration, self.bad)

    def take(self) -> dict[str, float]:
        """The means since the last call; this waits for the device."""
        names = list(self.sums)
        if not names:
            return {}
        values = torch.stack([self.sums[n] / self.counts[n] for n in names]).tolist()
        self.sums, self.counts = {}, {}
        return dict(zip(names, values, strict=True))


def _require_finite(meter: Meter, run: Run) -> None:
    bad = int(meter.bad)
    if bad >= 0:
        kept = run.checkpoints()
        good = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        raise VkdError(
            f"{run.path}: a loss is not finite at iteration {bad}; {good}; train anew elsewhere "
            "with a smaller train.d_lr, train.g_lr or distill.weight"
        )


def _evaluate(
    run: Run,
    gan: GAN,
    evaluator: Evaluator,
    probe: Scores,
    shares: list[float],
    progress: Progress,
    writer: SummaryWriter,
) -> None:
    """Measures the averaged generator, exports it where it is the best, looks at D's scores."""
    result, scores = evaluator(gan.average, shares), probe(gan)
    result |= summary(scores)
    record = {"iteration": progress.iteration, "seconds": round(progress.seconds, 3)} | result
    run.append("metrics", record)
    for name, value in result.items():
        if isinstance(value, float):
            writer.add_scalar(f"evaluate/{name}", value, progress.iteration)
    for kind, values in scores.items():
        writer.add_histogram(f"scores/{kind}", values, progress.iteration)
    save_histogram(scores, run.path / "scores" / f"{progress.iteration:08d}.png")
    distance = result[evaluator.extractor.frechet_name]
    tqdm.write(f"iteration {progress.iteration}: {evaluator.extractor.frechet_name} {distance:.3f}")
    if distance < progress.best:
        progress.best, progress.best_iteration = distance, progress.iteration
        run.export(gan.average, {"iteration": progress.iteration, "shares": shares})
        neighbours = evaluator.neighbours(gan.average, shares)
        if neighbours is not None:
            save_png(grid(neighbours, 6), run.path / "neighbours.png")


def _state(gan: GAN, progress: Progress, settings: Settings) -> dict[str, Any]:
    return {
        "gan": gan.state(),
        "progress": vars(progress),
        "random": _random_state(),
        "settings": settings.dump(),
        "versions": {
            "gan_vkd": gan_vkd.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def is_finished(run: Run, settings: Settings, resume: bool) -> bool:
    """Whether nothing is left to do; refuses a folder that is another run's."""
    if not (run.path / "settings.yaml").exists():
        return False
    if not resume:
        raise SettingsError(
            f"{run.path}: holds a run already; continue it with --resume or choose another --out"
        )
    changed = [
        line for line in differences(run.settings(), settings) if not line.startswith(MAY_CHANGE)
    ]
    if changed:
        raise SettingsError(f"{run.path}: is a run with other settings: {'; '.join(changed)}")
    kept = run.checkpoints()
    return bool(kept) and int(kept[-1].stem) >= settings.train.iterations


def _count_classes(settings: Settings, data: ImageSet) -> int:
    conditional = settings.data.conditional
    if conditional is None:
        conditional = len(data.classes) > 1
    if conditional and len(data.classes) < 2:
        raise SettingsError(
            f"data.conditional = true, but {settings.data.source} has no class folders"
        )
    return len(data.classes) if conditional else 0


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The list of signals that asked the run to stop; a second SIGINT stops at once."""
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        tqdm.write("stopping after this iteration")

    handled = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handle) for number in handled}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _out_of_memory(settings: Settings) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise VkdError(
            f"the device ran out of memory (ch {settings.model.ch}, batch "
            f"{settings.train.batch_size}); set a smaller train.batch_size or model.ch"
        ) from None
