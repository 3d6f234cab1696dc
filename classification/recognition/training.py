"""A recognition run: builds, measures and exports the student."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

import classification.recognition.teacher  # noqa: F401  (registers it)
from classification.epochs.dry_run import dry_run as measured_needs
from classification.epochs.task import EpochTask
from classification.recognition.compare import STUDENTS
from classification.recognition.data.feed import Feed
from classification.recognition.data.images import load_heldout_images, load_training_images
from classification.recognition.evaluation import measure
from classification.recognition.learner import Learner
from classification.recognition.network.students import build_student
from classification.recognition.run import Run
from classification.recognition.settings import ClassifierSettings, facts_of
from classification.recognition.views import remember
from gan_vkd.distill import Teacher
from gan_vkd.distill.folding import fold_batch_norms
from gan_vkd.report.page.write import ProgressPage
from gan_vkd.runtime import ranks
from gan_vkd.runtime.dry_run import Needs
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.training import run_to_end
from gan_vkd.teachers.frozen import load_recogniser


def train(
    settings: ClassifierSettings, folder: Path, resume: bool = False, max_time: float | None = None
) -> None:
    """Trains a student to `train.epochs`, by `gan_vkd.runtime.training.run_to_end`."""
    run_to_end(Recognition, settings, Run(folder), resume, max_time)


def dry_run(settings: ClassifierSettings, folder: Path) -> Needs:
    """What the run would need; see `classification.epochs.dry_run`."""
    return measured_needs(Recognition, settings, folder)


class Recognition(EpochTask):
    """The task of training a student."""

    shown: ClassVar[dict[str, str]] = {"top1": "top-1", "top5": "top-5"}
    remedies: ClassVar[Sequence[tuple[str, str]]] = (
        (
            r"\.normalize\.transform$",
            "a larger objective.features.method.normalization.eps or .shrinkage",
        ),
        (r"\.normalize\.", "another teacher, whose features are finite"),
        ("^token_loss$", "a smaller objective.token.weight or train.lr"),
        ("^feature_loss$", "a smaller objective.features.weight or train.lr"),
        ("^early_loss$", "a smaller objective.early.weight or train.lr"),
        ("", "a smaller train.lr, train.clip_norm, or train.precision=float32"),
    )

    def __init__(self, settings: ClassifierSettings, run: Run, device: str) -> None:
        self.settings, self.run, self.device = settings, run, device
        early = settings.objective.early
        with ranks.one_first_on_each_machine():
            images = load_training_images(settings.data)
            self.heldout = load_heldout_images(settings.data, images.classes)
            teachers = [
                load_recogniser(
                    network,
                    settings.data.resolution,
                    device,
                    None if early is None else early.teacher,
                )
                for network in settings.teachers.values()
            ]
        for teacher in teachers:
            fold_batch_norms(teacher)
        self.fingerprint = images.fingerprint()
        ranks.require_alike(lambda: (settings.dump(), self.fingerprint), run.path)
        self.classes = images.classes
        if settings.objective.token is not None:
            _require_classes(settings, teachers, len(self.classes))
        feed = Feed(settings, images, device)
        torch.manual_seed(settings.seed)
        layers = [] if early is None else [early.student]
        student = build_student(settings.student, len(self.classes), len(teachers), layers)
        try:
            self.student = Learner(settings, student, teachers, feed.per_epoch, device)
        except ValueError as error:
            raise SettingsError(f"objective: {error}") from None
        remember(self.student, feed)
        self.networks = {
            "student": student,
            "distillation": self.student.objective,
            "teachers (frozen)": nn.ModuleList(teachers),
        }
        super().__init__(
            self.student,
            feed,
            f"{images.count:,} images, {len(self.classes)} classes, {settings.student.name}",
            None if self.heldout is None else settings.evaluate.every,
            ProgressPage(STUDENTS, run.path),
        )

    def measure(self) -> dict[str, Any]:
        assert self.heldout is not None
        return measure(self.student.measured, self.settings, self.heldout, self.device)

    def export(self, facts: dict[str, Any]) -> None:
        student = self.student.measured
        own = facts_of(self.settings, self.classes, len(student.distilled_heads))
        self.run.export(student, own | facts)


def _require_classes(settings: ClassifierSettings, teachers: list[Teacher], classes: int) -> None:
    for name, teacher in zip(settings.teachers, teachers, strict=True):
        if teacher.widths[0] != classes:
            raise SettingsError(
                f"teachers.{name}: predicts {teacher.widths[0]} classes, but the images have "
                f"{classes}; set objective.token=null, or a teacher of these classes"
            )
