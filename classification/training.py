"""A classification run: set up, resume, step, log, evaluate, checkpoint, stop."""

from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from classification.config import ClassifierSettings, facts_of
from classification.data import Feed, Images, load_heldout_images, load_training_images
from classification.evaluation import measure
from classification.learner import Learner
from classification.run import Run
from classification.students import build_student
from gan_vkd.distill import Teacher
from gan_vkd.runtime import ranks
from gan_vkd.runtime.devices import pick_device
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.loop import Loop
from gan_vkd.runtime.progress import begin
from gan_vkd.runtime.session import hold
from gan_vkd.runtime.stopping import Stop
from gan_vkd.teachers.frozen import load_recogniser


def train(
    settings: ClassifierSettings, folder: Path, resume: bool = False, max_time: float | None = None
) -> None:
    """Trains to `train.epochs` and leaves everything in the run folder.

    Started by torchrun, its ranks share each batch.

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


def _train(settings: ClassifierSettings, run: Run, resume: bool, stop: Stop) -> None:
    # Set up: everything that can fail for want of a file fails here
    device = pick_device(settings.device)
    with ranks.one_first_on_each_machine():
        images = load_training_images(settings.data)
        heldout = load_heldout_images(settings.data, images.classes)
        early = settings.objective.early
        teachers = [
            load_recogniser(
                network, settings.data.resolution, device, None if early is None else early.teacher
            )
            for network in settings.teachers.values()
        ]
    ranks.require_alike(lambda: (settings.dump(), images.fingerprint()), run.path)
    classes = len(images.classes)
    if settings.objective.token is not None:
        _require_classes(settings, teachers, classes)
    feed = Feed(settings, images, device)
    torch.manual_seed(settings.seed)
    layers = [] if early is None else [early.student]
    student = build_student(settings.student, classes, len(teachers), layers)
    try:
        learner = Learner(settings, student, teachers, feed.per_epoch, device)
    except ValueError as error:
        raise SettingsError(f"objective: {error}") from None

    progress = begin(run, learner, settings, device, resume, learner.total)
    together = f"{ranks.world()} ranks, " if ranks.world() > 1 else ""
    print(
        f"{run.path}: {images.count:,} images, {classes} classes, {together}{device}, "
        f"{settings.student.name}, arm {settings.arm}, seed {settings.seed}, from epoch "
        f"{progress.iteration / feed.per_epoch:.4g} of {settings.train.epochs}"
    )

    batch_size = settings.train.batch_size
    loop = Loop(run, learner, settings, device, stop, progress, remedy, batch_size)
    if heldout is not None:
        evaluate = partial(_evaluate, loop, run, learner, heldout)
        loop.evaluate_every(settings.evaluate.every * feed.per_epoch, evaluate)
    elif ranks.is_first():
        facts = facts_of(settings, images.classes)
        loop.evaluate_every(learner.total, lambda now: run.export(learner.measured, facts))
    for done in loop:
        loop.add(learner.step(feed(done), done))
        loop.note({"epoch": (done + 1) / feed.per_epoch, "lr": learner.rate.now})
        loop.watch(learner.decompositions())
    best = f", best top-1 {100 - loop.progress.best:.2f}%" if heldout is not None else ""
    print(f"{run.path}: finished, {loop.progress.seconds:.0f} s of training{best}")


def _evaluate(loop: Loop, run: Run, learner: Learner, heldout: Images, now: int) -> None:
    """Measures the student, and exports it where it is the best."""
    settings, progress = learner.settings, loop.progress
    result = measure(learner.measured, settings, heldout, learner.device)
    best = 100 - result["top1"] < progress.best
    if best:
        progress.best, progress.best_iteration = 100 - result["top1"], now
    if loop.board is None:
        return
    epoch = now / learner.per_epoch
    loop.board.scalars("evaluate", result, now)
    tqdm.write(f"epoch {epoch:g}: top-1 {result['top1']:.2f}%, top-5 {result['top5']:.2f}%")
    if best:
        facts = facts_of(settings, heldout.classes) | {"epoch": epoch, "top1": result["top1"]}
        run.export(learner.measured, facts)
    run.append("metrics", loop.stamp() | {"epoch": epoch} | result)


def _require_classes(settings: ClassifierSettings, teachers: list[Teacher], classes: int) -> None:
    for name, teacher in zip(settings.teachers, teachers, strict=True):
        if teacher.widths[0] != classes:
            raise SettingsError(
                f"teachers.{name}: predicts {teacher.widths[0]} classes, the images have "
                f"{classes}; set objective.token=null, or a teacher of these classes"
            )


def remedy(name: str) -> str:
    """What may help against a tensor of that name that is not finite."""
    if name.endswith(".normalize.transform"):
        return "a larger objective.features.method.normalization.eps or .shrinkage"
    if ".normalize." in name:
        return "another teacher, whose features are finite"
    if name in ("token_loss", "feature_loss", "early_loss"):
        part = {"token_loss": "token", "feature_loss": "features", "early_loss": "early"}[name]
        return f"a smaller objective.{part}.weight or train.lr"
    return "a smaller train.lr, train.clip_norm, or train.precision=float32"
