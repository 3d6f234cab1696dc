"""A run's life: set up, resume, step, log, sample, evaluate, checkpoint, stop."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from gan_vkd.data.batches import Batches
from gan_vkd.data.image_set import ImageSet
from gan_vkd.data.sets import load_heldout_set, load_training_set
from gan_vkd.evaluation.evaluator import Evaluator
from gan_vkd.evaluation.settings import EvaluateSettings
from gan_vkd.game.build import build_trainer, remedy
from gan_vkd.game.explained import LEAST, ExplainedShare
from gan_vkd.game.scores import Scores, save_histogram, summary
from gan_vkd.game.settings import Settings
from gan_vkd.game.trainer import Trainer
from gan_vkd.networks.standing import as_sampled
from gan_vkd.report.pictures import class_grid, grid, save_png
from gan_vkd.run import Run
from gan_vkd.runtime import ranks
from gan_vkd.runtime.devices import pick_device
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.loop import Loop
from gan_vkd.runtime.progress import begin
from gan_vkd.runtime.session import hold
from gan_vkd.runtime.stopping import Stop
from gan_vkd.teachers.features import load_bank, load_views
from gan_vkd.teachers.frozen import load_teacher
from gan_vkd.teachers.text import class_embeddings


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
    run = Run(folder)
    hold(run, settings, resume, max_time, partial(_train, settings, run, resume))


def _train(settings: Settings, run: Run, resume: bool, stop: Stop) -> None:
    total = settings.train.iterations

    # Set up: everything that can fail for want of a file fails here
    device = pick_device(settings.device)
    batch_size = _batch_of_this_rank(settings)
    with ranks.one_first_on_each_machine():
        data, heldout = load_training_set(settings.data), load_heldout_set(settings.data)
        classes = _count_classes(settings, data)
        shares = (torch.bincount(data.labels) / len(data)).tolist() if classes else [1.0]
        labelled = data if classes else ImageSet(data.images, data.labels * 0, [""], data.names)
        teacher, text, bank, views = None, None, None, None
        if settings.distill is not None:
            distill = settings.distill
            layers = [pair.teacher or distill.teacher for pair in distill.pairs]
            teacher = load_teacher(distill.teacher, settings.data.resolution, device, layers)
            if distill.takes_text:
                text = class_embeddings(distill.text, teacher, data.classes)
            policy = [part.chosen for part in settings.augment]
            bank = partial(load_bank, teacher, data, settings.data.flip, settings.cache_folder)
            views = partial(load_views, teacher, data, policy, settings.cache_folder)
    ranks.require_alike(lambda: (settings.dump(), data.fingerprint()), run.path)
    torch.manual_seed(settings.seed)
    try:
        trainer = build_trainer(settings, classes, device, teacher, bank, text, views)
    except ValueError as error:
        raise SettingsError(f"distill: {error}") from None
    at_hand = {"heldout": heldout, "train": data}.get(settings.evaluate.reference)
    with ranks.one_first_on_each_machine():
        evaluator = Evaluator(
            settings.evaluate, settings.data, device, at_hand, data, settings.cache_folder
        )
    probe = Scores(labelled, heldout, settings.evaluate.seed)
    batches = Batches(
        labelled,
        settings.train.batch_size,
        flip=settings.data.flip,
        seed=settings.seed,
        device=device,
    )

    progress = begin(run, trainer, settings, device, resume, total)
    together = f"{ranks.world()} ranks, " if ranks.world() > 1 else ""
    print(
        f"{run.path}: {len(data)} images, {max(classes, 1)} classes, {together}{device}, arm "
        f"{settings.arm}, seed {settings.seed}, from iteration {progress.iteration} of {total}"
    )

    loop = Loop(run, trainer, settings, device, stop, progress, remedy)
    sample = partial(_sample, loop, trainer, settings.evaluate, shares)
    loop.every(settings.train.sample_every, sample)
    loop.evaluate_every(
        settings.evaluate.every, partial(_evaluate, loop, run, trainer, evaluator, probe, shares)
    )
    if heldout is not None and ExplainedShare.is_defined(trainer):
        loop.beside(_explained(loop, ExplainedShare(trainer, heldout, settings.seed)))
    loop.watch(trainer.decompositions())
    d_steps = settings.train.d_steps
    for done in loop:
        # One iteration: d_steps updates of the discriminator, one of the generator
        for number in range(done * d_steps, (done + 1) * d_steps):
            batch = batches(number)
            losses = trainer.discriminator_step(batch, batches.random_labels(batch_size), number)
            loop.watch(trainer.decompositions())
            loop.add(losses)
        real = batch if trainer.adversary.relative else None
        loop.add(trainer.generator_step(batches.random_labels(batch_size), done, real))
        loop.watch(trainer.gradients())
    progress = loop.progress
    print(
        f"{run.path}: finished, {progress.seconds:.0f} s of training, best "
        f"{evaluator.extractor.frechet_name} {progress.best:.3f} at iteration "
        f"{progress.best_iteration}"
    )


def _explained(loop: Loop, share: ExplainedShare) -> Callable[[], dict[str, float]]:
    """What of the teacher is learnt, for every record; said once where that is nothing."""
    silent = True

    def measure() -> dict[str, float]:
        nonlocal silent
        now, explained = loop.progress.iteration, share()
        if silent and explained < LEAST and now >= loop.progress.total / 10:
            silent = False
            tqdm.write(
                f"iteration {now}: the teacher is not being learnt, {explained:.1%} of its "
                "features' variance on held-out images is explained; try distill.weight=auto, "
                "distill.student.scaling=batch or fewer distill.method.normalization.directions"
            )
        return {"explained_share": explained}

    return measure


def _sample(
    loop: Loop, trainer: Trainer, evaluate: EvaluateSettings, shares: list[float], now: int
) -> None:
    generator = as_sampled(trainer.ema.generator, shares, evaluate)
    picture = class_grid(generator, shares)
    save_png(picture, loop.run.path / "samples" / f"{now:08d}.png")
    if loop.board is not None:
        loop.board.image("samples", picture, now)


def _evaluate(
    loop: Loop,
    run: Run,
    trainer: Trainer,
    evaluator: Evaluator,
    probe: Scores,
    shares: list[float],
    now: int,
) -> None:
    """Measures the averaged generator, exports it where it is the best, looks at D's scores."""
    generator = as_sampled(trainer.ema.generator, shares, evaluator.settings)
    result, progress = evaluator(generator, shares), loop.progress
    distance = result[evaluator.extractor.frechet_name]
    best = distance < progress.best
    if best:
        progress.best, progress.best_iteration = distance, now
    if loop.board is None:
        return
    scores = probe(trainer.discriminator, generator)
    result = result | summary(scores)
    loop.board.scalars("evaluate", result, now)
    loop.board.histograms("scores", scores, now)
    save_histogram(scores, run.path / "scores" / f"{now:08d}.png")
    tqdm.write(f"iteration {now}: {evaluator.extractor.frechet_name} {distance:.3f}")
    if best:
        run.export(generator, {"iteration": now, "shares": shares})
        neighbours = evaluator.neighbours(generator, shares)
        if neighbours is not None:
            save_png(grid(neighbours, 6), run.path / "neighbours.png")
    run.append("metrics", loop.stamp() | result)


def _batch_of_this_rank(settings: Settings) -> int:
    size, world = settings.train.batch_size, ranks.world()
    parts = settings.evaluate.num_samples // settings.evaluate.inseparable
    if parts < world:
        what = "samples" if settings.evaluate.inseparable == 1 else "batches of samples"
        raise SettingsError(f"evaluate.num_samples: fewer {what} than the {world} ranks")
    if size % world:
        raise SettingsError(f"train.batch_size = {size}: {world} ranks cannot share it evenly")
    return size // world


def _count_classes(settings: Settings, data: ImageSet) -> int:
    conditional = settings.data.conditional
    if conditional is None:
        conditional = len(data.classes) > 1
    if conditional and len(data.classes) < 2:
        raise SettingsError(
            f"data.conditional = true, but {settings.data.source} has no class folders"
        )
    return len(data.classes) if conditional else 0
