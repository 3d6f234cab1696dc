"""A detection run: set up, resume, step, log, evaluate, checkpoint, stop."""

import math
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from classification.detection.build import load_detector
from classification.detection.coco import Coco, load_heldout_images, load_training_images
from classification.detection.config import DetectionSettings, facts_of
from classification.detection.data import Feed
from classification.detection.evaluation import measure, require_pycocotools
from classification.detection.learner import Learner
from classification.detection.run import Run
from gan_vkd.runtime import ranks
from gan_vkd.runtime.devices import pick_device
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.loop import Loop
from gan_vkd.runtime.progress import begin
from gan_vkd.runtime.session import hold
from gan_vkd.runtime.stopping import Stop


def train(
    settings: DetectionSettings, folder: Path, resume: bool = False, max_time: float | None = None
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


def _train(settings: DetectionSettings, run: Run, resume: bool, stop: Stop) -> None:
    # Set up: everything that can fail for want of a file fails here
    device = pick_device(settings.device)
    images = load_training_images(settings.data)
    heldout = load_heldout_images(settings.data, images.categories)
    if heldout is not None:
        require_pycocotools()
        if all(annotation["iscrowd"] for annotation in heldout.annotations):
            raise SettingsError(
                f"data.heldout = {settings.data.heldout}: nothing is to be found in it, and AP "
                "needs something; set data.heldout=null to train without"
            )
    ranks.require_alike(lambda: (settings.dump(), images.fingerprint()), run.path)
    facts = facts_of(settings, images.categories)
    classes = facts["classes"]
    if classes <= max(images.categories):
        raise SettingsError(
            f"data.classes = {classes}: the largest category is {max(images.categories)}"
        )
    feed = Feed(settings, images, device)
    torch.manual_seed(settings.seed)
    with ranks.one_first_on_each_machine():
        detector = load_detector(settings.student, classes)
        teacher = None
        if settings.teacher is not None:
            teacher = load_detector(settings.teacher, classes, teacher=True)
    try:
        learner = Learner(settings, detector, teacher, feed.per_epoch, device)
    except ValueError as error:
        raise SettingsError(f"distill: {error}") from None

    progress = begin(run, learner, settings, device, resume, learner.total)
    together = f"{ranks.world()} ranks, " if ranks.world() > 1 else ""
    objects = [len(found.labels) for found in images.objects]
    print(
        f"{run.path}: {images.count:,} images ({objects.count(0):,} of them without objects), "
        f"{sum(objects):,} objects of {len(images.categories)} categories, {together}{device}, "
        f"ViDT {settings.student.size}, arm {settings.arm}, seed {settings.seed}, from epoch "
        f"{progress.iteration / feed.per_epoch:.4g} of {settings.train.epochs}"
    )

    loop = Loop(run, learner, settings, device, stop, progress, remedy, settings.train.batch_size)
    if heldout is not None:
        evaluate = partial(_evaluate, loop, run, learner, heldout)
        loop.evaluate_every(settings.evaluate.every * feed.per_epoch, evaluate)
    elif ranks.is_first():
        loop.evaluate_every(learner.total, lambda now: run.export(learner.detector, facts))
    for done in loop:
        loop.add(learner.step(feed(done), done))
        loop.note({"epoch": (done + 1) / feed.per_epoch, "lr": learner.rate.now})
        loop.watch(learner.decompositions())
    best = f", best AP {100 - loop.progress.best:.2f}" if loop.progress.best < math.inf else ""
    print(f"{run.path}: finished, {loop.progress.seconds:.0f} s of training{best}")


def _evaluate(loop: Loop, run: Run, learner: Learner, heldout: Coco, now: int) -> None:
    """Measures the detector, and exports it where it is the best."""
    settings, progress = learner.settings, loop.progress
    result = measure(learner.detector, settings, heldout, learner.device)
    # AP is not defined without objects; the last detector counts as the best as long as it never is
    missing = 100 - result["AP"] if "AP" in result else math.inf
    best = missing < progress.best or missing == progress.best == math.inf
    if best:
        progress.best, progress.best_iteration = missing, now
    if loop.board is None:
        return
    epoch = now / learner.per_epoch
    loop.board.scalars("evaluate", result, now)
    told = ", ".join(f"{name} {result[name]:.2f}" for name in ("AP", "AP50") if name in result)
    tqdm.write(f"epoch {epoch:g}: {told}")
    if best:
        facts = facts_of(settings, heldout.categories) | {"epoch": epoch} | result
        run.export(learner.detector, facts)
    run.append("metrics", loop.stamp() | {"epoch": epoch} | result)


def remedy(name: str) -> str:
    """What may help against a tensor of that name that is not finite."""
    if name in ("patch_loss", "body_loss", "neck_loss", "token_loss"):
        return "a smaller distill.weight or train.lr"
    return "a smaller train.lr or train.clip_norm, or train.precision=float32"
