"""The distillation as the discriminator's step calls it: the teacher, the student, their loss."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gan_vkd.data.sets import Batch
from gan_vkd.distill import METHODS, LayerPairs, StudentFeature, Teacher
from gan_vkd.distill.head import Head
from gan_vkd.distill.losses import Aggregated
from gan_vkd.distill.normalization import RunningStatistics, Whitening
from gan_vkd.game.settings import DistillSettings
from gan_vkd.runtime import ranks
from gan_vkd.teachers.features import FeatureBank


class StudentLayer(NamedTuple):
    """Features of the discriminator: their width, and the positions that they are the sum over."""

    width: int
    positions: int


class Distillation(nn.Module):
    """method(student features, teacher(images)) on real, fake or all images.

    The teacher is held outside of the module's state: it is frozen and comes from its own file.

    Args:
        settings: of the distillation.
        teacher: read at one layer a pair.
        students: what the discriminator's features are, one a pair.
        text: (C, dt) embeddings of the classes, where the method needs them.
    """

    def __init__(
        self,
        settings: DistillSettings,
        teacher: Teacher,
        students: list[StudentLayer],
        text: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.settings, self._teacher = settings, [teacher]
        self.bank: FeatureBank | None = None
        make = METHODS[settings.method]
        options = settings.options() | ({"text": text} if settings.method == "kd_dlgm" else {})
        how = settings.student.model_dump()
        features = [
            StudentFeature(student.width, width, positions=student.positions, **how)
            for student, width in zip(students, teacher.widths, strict=True)
        ]
        widths = zip((feature.width for feature in features), teacher.widths, strict=True)
        methods = [make(student, width, **options) for student, width in widths]
        self.features = nn.ModuleList(features)
        self.method = LayerPairs(methods, [pair.weight for pair in settings.pairs])
        # samples that are related to each other
        self.least_batch = max(self.method.least_batch, features[0].least_batch)
        self.aggregated = Aggregated()
        self.head: nn.Module | None = None  # before the aggregated term, where the feature has none
        at = settings.score_pair
        if settings.aggregated and at is not None and features[at].head is None:
            self.head = Head(students[at].width, teacher.widths[at])

    @property
    def teacher(self) -> Teacher:
        """Frozen."""
        return self._teacher[0]

    def use(self, bank: FeatureBank) -> None:
        """Looks the teacher's features of clean real images up from here on, on the bank's device.

        Where the settings ask for the training set's statistics, they are taken from it.
        """
        self.bank = bank
        if self.settings.statistics == "training_set" and not self.settings.needs_views:
            self.to(bank.features.device)
            rows = bank.features[ranks.own_part(len(bank.features))]
            known = rows.split(self.teacher.widths, dim=1)
            batches = 1 + len(bank.features) // 1000  # as many on every rank
            for method, features in zip(self.method.methods, known, strict=True):
                assert isinstance(method.normalize, RunningStatistics)
                method.normalize.fit(features.tensor_split(batches))

    def fit_views(self, first: Tensor, second: Tensor) -> None:
        """Takes the whitening from the teacher's features (N, dt) of two views of all images."""
        self.to(first.device)
        part, widths = ranks.own_part(len(first)), self.teacher.widths
        views = (view[part].split(widths, dim=1) for view in (first, second))
        for method, *known in zip(self.method.methods, *views, strict=True):
            assert isinstance(method.normalize, Whitening)
            method.normalize.fit_views(*known)

    def forward(
        self, students: list[Tensor], batch: Batch, augmented: Tensor, clean: Tensor
    ) -> dict[str, Tensor]:
        """The losses of what the discriminator saw, B fake images and then B real ones of a batch.

        Those of the method, without its weight, and of the aggregated term, with it.

        Args:
            students: features (2B, ds), one a pair.
            batch: where the real images come from.
            augmented, clean: the images (2B, 3, R, R), as it saw them and before.
        """
        b = len(batch.labels)
        fake, real = slice(None, b), slice(b, None)
        part = {"both": slice(None), "fake": fake, "real": real}[self.settings.images]
        target = self._target(part, batch, augmented, clean)
        students = [s[part] for s in students]
        if self.method.least_batch > 1 and ranks.world() > 1:
            # every sample is related to every other, on whatever rank it lies
            *students, target = (self._of_all_ranks(x) for x in (*students, target))
        targets = target.split(self.teacher.widths, dim=1)
        features = [feature(s) for feature, s in zip(self.features, students, strict=True)]
        losses = {"distill_loss": self.method([scaled for _, scaled in features], targets)}
        at = self.settings.score_pair
        if self.settings.aggregated and at is not None:
            mapped = features[at][0] if self.head is None else self.head(students[at])
            term = self.aggregated(mapped, targets[at])
            losses["aggregated_loss"] = self.settings.aggregated * term
        return losses

    def sides(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, ds), (B, dt) of the first pair -> projected student and target (B, dt)."""
        _, scaled = self.features[0](student)
        method: Any = self.method.methods[0]
        return method.sides(scaled, teacher)

    def _of_all_ranks(self, features: Tensor) -> Tensor:
        """All ranks' rows, those of fake images before those of real ones."""
        sides = features.chunk(2 if self.settings.images == "both" else 1)
        return torch.cat([ranks.gather(side) for side in sides])

    @torch.no_grad()
    def _target(self, part: slice, batch: Batch, augmented: Tensor, clean: Tensor) -> Tensor:
        teacher, settings = self.teacher, self.settings
        if settings.view == "augmented":
            return teacher(augmented[part])
        if self.bank is None or settings.images == "fake":
            return teacher(clean[part])
        known = self.bank(batch.indices, batch.flipped)
        if settings.images == "real":
            return known
        return torch.cat([teacher(clean[: len(known)]), known])
