"""A run's life: set up, resume, step, log, sample, evaluate, checkpoint, stop."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from gan_vkd import ranks
from gan_vkd.board import Board
from gan_vkd.checkpoint import load_state
from gan_vkd.config import Settings, differences
from gan_vkd.data import Batches, ImageSet, load_heldout_set, load_training_set
from gan_vkd.errors import SettingsError, VkdError
from gan_vkd.evaluation import Evaluator
from gan_vkd.features import load_bank
from gan_vkd.finite import Watch
from gan_vkd.gan import GAN
from gan_vkd.pictures import class_grid, grid, save_png
from gan_vkd.progress import Progress, restore, return_to_last, save
from gan_vkd.run import Run, pick_device
from gan_vkd.scores import Scores, save_histogram, summary
from gan_vkd.stopping import OUT_OF_TIME, Stop, Stopped
from gan_vkd.teachers import load_teacher
from gan_vkd.text import class_embeddings

# What may change when a run is continued: its length, its reports, what it does in trouble.
MAY_CHANGE = (
    "device", "train.iterations", "train.log_every", "train.sample_every",
    "train.checkpoint_every", "train.keep_checkpoints", "train.returns", "evaluate.every",
    "data.root", "data.download", "cache",
)  # fmt: skip


def train(
    settings: Settings, folder: Path, resume: bool = False, max_time: float | None = None
) -> None:
    """Trains to `train.iterations` and leaves everything in the run folder.

    Started by torchrun, its ranks train as one process would on the whole batch.

    Args:
        settings: of the run.
        folder: new, or with `resume` the folder of a run that was stopped.
        resume: continue from the newest checkpoint, or start where there is none.
        max_time: seconds after which the run stops, with a checkpoint.

    Raises:
        SettingsError: the folder holds a run already, or one with other settings.
        Stopped: by a signal or by `max_time`, after a checkpoint.
        VkdError: data, weights, disk, memory, a folder in use, or numbers that are not finite.
    """
    run, stop = Run(folder), Stop(max_time)
    with ranks.joined(), _out_of_memory(settings):
        if ranks.from_first(lambda: is_finished(run, settings, resume)):
            print(f"{run.path}: finished already ({settings.train.iterations} iterations)")
            return
        with run.locked(), stop.listening():
            if not ranks.from_first(lambda: is_finished(run, settings, resume)):
                _train(settings, run, resume, stop)


def _train(settings: Settings, run: Run, resume: bool, stop: Stop) -> None:
    total, first = settings.train.iterations, ranks.is_first()

    # Set up: everything that can fail for want of a file fails here
    device = pick_device(settings.device)
    batch_size = _batch_of_this_rank(settings)
    with ranks.one_first_on_each_machine():
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
    alike = ranks.all_parts((settings.dump(), data.fingerprint() if ranks.world() > 1 else ""))
    if len(set(alike)) > 1:
        raise VkdError(f"{run.path}: the ranks have read other settings or other images")
    torch.manual_seed(settings.seed)
    try:
        gan = GAN(settings, classes, device, teacher, bank, text)
    except ValueError as error:
        raise SettingsError(f"distill: {error}") from None
    at_hand = {"heldout": heldout, "train": data}.get(settings.evaluate.reference)
    with ranks.one_first_on_each_machine():
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
    if resume:
        progress = restore(run, gan, settings, device) or progress
    if first:
        run.write_settings(settings)
        run.truncate("metrics", progress.iteration)
    together = f"{ranks.world()} ranks, " if ranks.world() > 1 else ""
    print(
        f"{run.path}: {len(data)} images, {max(classes, 1)} classes, {together}{device}, arm "
        f"{settings.arm}, seed {settings.seed}, from iteration {progress.iteration} of {total}"
    )

    board = Board(run.path / "tensorboard", progress.iteration + 1) if first else None
    meter, watch = Meter(), Watch()
    watch.look(gan.decompositions(), progress.iteration)
    bar = tqdm(
        total=total, initial=progress.iteration, unit="it", desc=settings.arm, dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 5, disable=not first,
    )  # fmt: skip
    with bar:
        tick = time.perf_counter()
        while progress.iteration < total:
            # One iteration: d_steps updates of the discriminator, one of the generator
            done, now = progress.iteration, progress.iteration + 1
            for number in range(done * settings.train.d_steps, now * settings.train.d_steps):
                batch = batches(number)
                fake_labels = batches.random_labels(batch_size)
                losses = gan.discriminator_step(batch, fake_labels, number)
                meter.add(losses)
                watch.look(gan.decompositions(), now)
                watch.look(losses, now)
            losses = gan.generator_step(batches.random_labels(batch_size), done)
            meter.add(losses)
            watch.look(losses, now)
            watch.look(gan.gradients(), now)
            progress.iteration = now
            bar.update()

            last = now == total
            stopping = ranks.largest(stop.exit_code)
            due = {
                name: now % getattr(settings.train, f"{name}_every") == 0 or last
                for name in ("log", "sample", "checkpoint")
            }
            evaluating = now % settings.evaluate.every == 0 or last
            if not (any(due.values()) or evaluating or stopping):
                continue

            # Reports, none of them from numbers that are not finite
            means = meter.take()
            progress.seconds += time.perf_counter() - tick
            faults = [fault for fault in ranks.all_parts(watch.fault()) if fault]
            if faults:
                first_fault = min(faults, key=lambda fault: fault[1])
                progress = return_to_last(run, gan, settings, device, progress, *first_fault)
                watch = Watch()
                bar.n = progress.iteration
                tick = time.perf_counter()
                continue
            if first and board is not None:
                if due["log"]:
                    record = {"iteration": now, "seconds": round(progress.seconds, 3)} | means
                    run.append("metrics", record)
                    board.scalars("train", means, now)
                    shown = {k: f"{v:.3g}" for k, v in means.items() if "loss" in k}
                    bar.set_postfix(shown, refresh=False)
                if due["sample"]:
                    picture = class_grid(gan.average, shares)
                    save_png(picture, run.path / "samples" / f"{now:08d}.png")
                    board.image("samples", picture, now)
            if evaluating and stopping:  # who asked may not wait for the end of an evaluation
                save(run, gan, progress, settings, device)
            if evaluating:
                _evaluate(run, gan, evaluator, probe, shares, progress, board)
            if due["checkpoint"] or evaluating or stopping:
                save(run, gan, progress, settings, device)
            if stopping and not last:
                why = "out of its time" if stopping == OUT_OF_TIME else "stopped"
                code = 0 if ranks.launched() else stopping  # torchrun starts anew what fails
                if not first:
                    sys.exit(code)
                raise Stopped(
                    f"{run.path}: {why} at iteration {now} of {total}, checkpoint written; "
                    "continue with --resume", code,
                )  # fmt: skip
            tick = time.perf_counter()
    if board is not None:
        board.close()
    print(
        f"{run.path}: finished, {progress.seconds:.0f} s of training, best "
        f"{evaluator.extractor.frechet_name} {progress.best:.3f} at iteration "
        f"{progress.best_iteration}"
    )


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


def _evaluate(
    run: Run,
    gan: GAN,
    evaluator: Evaluator,
    probe: Scores,
    shares: list[float],
    progress: Progress,
    board: Board | None,
) -> None:
    """Measures the averaged generator, exports it where it is the best, looks at D's scores."""
    result, now = evaluator(gan.average, shares), progress.iteration
    distance = result[evaluator.extractor.frechet_name]
    best = distance < progress.best
    if best:
        progress.best, progress.best_iteration = distance, now
    if board is None:
        return
    scores = probe(gan)
    result = result | summary(scores)
    run.append("metrics", {"iteration": now, "seconds": round(progress.seconds, 3)} | result)
    board.scalars("evaluate", result, now)
    board.histograms("scores", scores, now)
    save_histogram(scores, run.path / "scores" / f"{now:08d}.png")
    tqdm.write(f"iteration {now}: {evaluator.extractor.frechet_name} {distance:.3f}")
    if best:
        run.export(gan.average, {"iteration": now, "shares": shares})
        neighbours = evaluator.neighbours(gan.average, shares)
        if neighbours is not None:
            save_png(grid(neighbours, 6), run.path / "neighbours.png")


def _batch_of_this_rank(settings: Settings) -> int:
    size, world = settings.train.batch_size, ranks.world()
    if settings.evaluate.num_samples < world:
        raise SettingsError(f"evaluate.num_samples: fewer than the {world} ranks")
    if size % world:
        raise SettingsError(f"train.batch_size = {size}: {world} ranks cannot share it evenly")
    return size // world


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
    if not kept or int(kept[-1].stem) < settings.train.iterations:
        return False
    try:
        load_state(kept[-1])
    except VkdError:
        return False
    return True


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
def _out_of_memory(settings: Settings) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        on_the_host = "not enough memory" in str(error) or "allocate memory" in str(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or on_the_host:
            raise VkdError(
                f"out of memory (ch {settings.model.ch}, batch {settings.train.batch_size}); set "
                "a smaller train.batch_size or model.ch, or share the batch by more ranks; the "
                "last checkpoint is whole"
            ) from None
        raise
