"""The distillation as the discriminator's step calls it: the teacher, the student, their loss."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from gan_vkd.data.batches import Batch
from gan_vkd.distill import Layer, LayerPairs, Reader, StudentFeature, Teacher
from gan_vkd.distill.losses import Aggregated
from gan_vkd.distill.normalization import RunningStatistics, Whitening
from gan_vkd.runtime import ranks
from gan_vkd.teachers.features import FeatureBank


class Pair(NamedTuple):
    """What of the discriminator is to match a layer of the teacher, and how.

    method: the loss of student features and teacher features. feature: what is made of the
    discriminator's features before. layer: where it is read; None: what its score is taken from.
    """

    method: nn.Module
    feature: StudentFeature
    layer: Layer | None = None
    weight: float = 1.0


class Distillation(nn.Module):
    """method(student features, teacher(images)) on real, fake or all images.

    The teacher is held outside of the module's state: it is frozen and comes from its own file.

    Args:
        teacher: read at one layer a pair.
        pairs: in the order of the teacher's layers.
        weight: beside the game; "auto": as `gradient_ratio` says.
        gradient_ratio: of the norm of the distillation's gradient to the game's, at the features
            that the score is taken from.
        images: which are distilled.
        view: what the teacher sees, as the discriminator does or before it is augmented.
        aggregated: weight of KD-DLGM's aggregated term beside another method.
        head: to the teacher's width, for that term where the feature has no head.

    Raises:
        ValueError: a weight or term that needs the features of the score, and no pair has them.
    """

    def __init__(
        self,
        teacher: Teacher,
        pairs: Sequence[Pair],
        *,
        weight: float | Literal["auto"] = 10.0,
        gradient_ratio: float = 1.0,
        images: Literal["both", "real", "fake"] = "both",
        view: Literal["augmented", "clean"] = "augmented",
        aggregated: float = 0.0,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self._teacher = [teacher]
        self._reader: Reader | None = None
        self.bank: FeatureBank | None = None  # the teacher's features of clean real images
        self.layers = [pair.layer for pair in pairs]
        self.score_pair = self.layers.index(None) if None in self.layers else None
        if self.score_pair is None and (weight == "auto" or aggregated):
            raise ValueError(
                "weight = auto and aggregated need a pair that reads the features of the score"
            )
        self.weight, self.gradient_ratio = weight, gradient_ratio
        self.images, self.view, self.aggregated_weight = images, view, aggregated
        self.features = nn.ModuleList(pair.feature for pair in pairs)
        self.method = LayerPairs([p.method for p in pairs], [p.weight for p in pairs])
        self.aggregated = Aggregated()
        self.head = head

    def read(self, discriminator: nn.Module) -> None:
        """Reads this network's layers from here on.

        Raises:
            ValueError: no layer of that name.
        """
        self._reader = Reader(discriminator, [layer for layer in self.layers if layer is not None])

    def students(self, features: Tensor) -> list[Tensor]:
        """What the pairs read of the last forward, whose features of the score are given."""
        read = iter([] if self._reader is None else self._reader.take())
        return [features if layer is None else next(read) for layer in self.layers]

    def at_the_score(self, students: list[Tensor]) -> Tensor | None:
        """Those of the students that the score is taken from."""
        return None if self.score_pair is None else students[self.score_pair]

    @property
    def least_batch(self) -> int:
        """Samples that are related to each other."""
        features = (cast(StudentFeature, feature) for feature in self.features)
        return max(self.method.least_batch, *(feature.least_batch for feature in features))

    @property
    def teacher(self) -> Teacher:
        """Frozen."""
        return self._teacher[0]

    def fit(self, bank: FeatureBank) -> None:
        """Takes the normalisations' statistics from the features of the whole training set."""
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
        part = {"both": slice(None), "fake": fake, "real": real}[self.images]
        target = self._target(part, batch, augmented, clean)
        students = [s[part] for s in students]
        if self.method.least_batch > 1 and ranks.world() > 1:
            # every sample is related to every other, on whatever rank it lies
            *students, target = (self._of_all_ranks(x) for x in (*students, target))
        targets = target.split(self.teacher.widths, dim=1)
        features = [feature(s) for feature, s in zip(self.features, students, strict=True)]
        losses = {"distill_loss": self.method([scaled for _, scaled in features], targets)}
        at = self.score_pair
        if self.aggregated_weight and at is not None:
            mapped = features[at][0] if self.head is None else self.head(students[at])
            term = self.aggregated(mapped, targets[at])
            losses["aggregated_loss"] = self.aggregated_weight * term
        return losses

    def sides(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, ds), (B, dt) of the first pair -> projected student and target (B, dt)."""
        _, scaled = self.features[0](student)
        method: Any = self.method.methods[0]
        return method.sides(scaled, teacher)

    def _of_all_ranks(self, features: Tensor) -> Tensor:
        """All ranks' rows, those of fake images before those of real ones."""
        sides = features.chunk(2 if self.images == "both" else 1)
        return torch.cat([ranks.gather(side) for side in sides])

    @torch.no_grad()
    def _target(self, part: slice, batch: Batch, augmented: Tensor, clean: Tensor) -> Tensor:
        teacher = self.teacher
        if self.view == "augmented":
            return teacher(augmented[part])
        if self.bank is None or self.images == "fake":
            return teacher(clean[part])
        known = self.bank(batch.indices, batch.flipped)
        if self.images == "real":
            return known
        return torch.cat([teacher(clean[: len(known)]), known])
