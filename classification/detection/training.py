"""A detection run: builds, measures and exports the detector."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from classification.detection.compare import DETECTORS
from classification.detection.data.coco import load_heldout_images, load_training_images
from classification.detection.data.feed import Feed
from classification.detection.evaluation import measure, require_pycocotools
from classification.detection.learner import Learner
from classification.detection.network.build import load_detector
from classification.detection.run import Run
from classification.detection.settings import DetectionSettings, facts_of
from classification.epochs.dry_run import dry_run as measured_needs
from classification.epochs.task import EpochTask
from gan_vkd.report.page.write import ProgressPage
from gan_vkd.runtime import ranks
from gan_vkd.runtime.dry_run import Needs
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.training import run_to_end


def train(
    settings: DetectionSettings, folder: Path, resume: bool = False, max_time: float | None = None
) -> None:
    """Trains a detector to `train.epochs`, by `gan_vkd.runtime.training.run_to_end`."""
    run_to_end(Detection, settings, Run(folder), resume, max_time)


def dry_run(settings: DetectionSettings, folder: Path) -> Needs:
    """What the run would need; see `classification.epochs.dry_run`."""
    return measured_needs(Detection, settings, folder)


class Detection(EpochTask):
    """The task of training a detector."""

    shown: ClassVar[dict[str, str]] = {"AP": "AP", "AP50": "AP50"}
    remedies: ClassVar[Sequence[tuple[str, str]]] = (
        ("^(patch|body|neck|token)_loss$", "a smaller distill.weight or train.lr"),
        ("", "a smaller train.lr or train.clip_norm, or train.precision=float32"),
    )

    def __init__(self, settings: DetectionSettings, run: Run, device: str) -> None:
        self.settings, self.run, self.device = settings, run, device
        images = load_training_images(settings.data)
        self.heldout = load_heldout_images(settings.data, images.categories)
        if self.heldout is not None:
            require_pycocotools()
            if all(annotation["iscrowd"] for annotation in self.heldout.annotations):
                raise SettingsError(
                    f"data.heldout = {settings.data.heldout}: AP needs annotated objects, and it "
                    "has none; set data.heldout=null to train without evaluations"
                )
        self.fingerprint = images.fingerprint()
        ranks.require_alike(lambda: (settings.dump(), self.fingerprint), run.path)
        self.facts = facts_of(settings, images.categories)
        classes = self.facts["classes"]
        if classes <= max(images.categories):
            raise SettingsError(
                f"data.classes = {classes}: the largest category is {max(images.categories)}"
            )
        feed = Feed(settings, images, device)
        torch.manual_seed(settings.seed)
        with ranks.one_first_on_each_machine():
            self.detector = load_detector(settings.student, classes)
            teacher = None
            if settings.teacher is not None:
                teacher = load_detector(settings.teacher, classes, teacher=True)
        try:
            learner = Learner(settings, self.detector, teacher, feed.per_epoch, device)
        except ValueError as error:
            raise SettingsError(f"distill: {error}") from None
        self.networks = {
            "detector": self.detector,
            "distillation": learner.distill,
            "teacher (frozen)": teacher,
        }
        objects = [len(found.labels) for found in images.objects]
        data = (
            f"{images.count:,} images ({objects.count(0):,} of them without objects), "
            f"{sum(objects):,} objects of {len(images.categories)} categories, ViDT "
            f"{settings.student.size}"
        )
        every = None if self.heldout is None else settings.evaluate.every
        super().__init__(learner, feed, data, every, ProgressPage(DETECTORS, run.path))

    def measure(self) -> dict[str, Any]:
        assert self.heldout is not None
        return measure(self.detector, self.settings, self.heldout, self.device)

    def export(self, facts: dict[str, Any]) -> None:
        self.run.export(self.detector, self.facts | facts)
