"""The distillation in the discriminator's update: teacher, student features and their losses."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
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
    """One pair of layers: features of the discriminator and the loss that matches the teacher's.

    method: loss of student and teacher features. feature: applied to the discriminator's features
    before the loss. layer: layer of the discriminator; None for the features of its score.
    weight: of the loss among the pairs.
    """

    method: nn.Module
    feature: StudentFeature
    layer: Layer | None = None
    weight: float = 1.0


class Distillation(nn.Module):
    """method(student features, teacher(images)) on real images, fake images or both.

    The teacher is not part of the module's state, since it is frozen and has a file of its own.

    Args:
        teacher: has one layer per pair.
        pairs: in the order of the teacher's layers.
        weight: of the distillation loss relative to the adversarial loss; "auto" follows
            `gradient_ratio`.
        gradient_ratio: ratio of the gradient norms of the weighted distillation loss and the
            adversarial loss, at the features that the score is computed from.
        images: the images that are distilled on.
        view: whether the teacher sees the augmented images, as the discriminator does, or the clean
            ones.
        aggregated: weight of KD-DLGM's aggregated term in addition to another method.
        every: the losses are computed in every `every`-th update, with the same weight.
        head: maps to the teacher's width for the aggregated term, if the feature has no head.

    Raises:
        ValueError: `weight` or `aggregated` needs the features of the score, but no pair reads
            them.
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
        every: int = 1,
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
        self.every = every
        self.features = nn.ModuleList(pair.feature for pair in pairs)
        self.method = LayerPairs([p.method for p in pairs], [p.weight for p in pairs])
        self.aggregated = Aggregated()
        self.head = head

    def read(self, discriminator: nn.Module) -> None:
        """Sets the discriminator whose layers are read.

        Raises:
            ValueError: the discriminator has no layer of that name.
        """
        self._reader = Reader(discriminator, [layer for layer in self.layers if layer is not None])

    def reading(self) -> AbstractContextManager[object]:
        """Context of the discriminator's forward whose features `students` returns."""
        return nullcontext() if self._reader is None else self._reader

    def students(self, features: Tensor) -> list[Tensor]:
        """Features of each pair in the forward that was read, given those (2B, ds) of its score."""
        read = iter([] if self._reader is None else self._reader.take())
        return [features if layer is None else next(read) for layer in self.layers]

    def at_the_score(self, students: list[Tensor]) -> Tensor | None:
        """The student features that the score is computed from, or None if no pair reads them."""
        return None if self.score_pair is None else students[self.score_pair]

    @property
    def least_batch(self) -> int:
        """Smallest batch size that the losses and scalings need."""
        features = (cast(StudentFeature, feature) for feature in self.features)
        return max(self.method.least_batch, *(feature.least_batch for feature in features))

    @property
    def teacher(self) -> Teacher:
        """The frozen teacher."""
        return self._teacher[0]

    def fit(self, bank: FeatureBank) -> None:
        """Fits the normalisations to the features of the whole training set."""
        self.to(bank.features.device)
        rows = bank.features[ranks.own_part(len(bank.features))]
        known = rows.split(self.teacher.widths, dim=1)
        batches = 1 + len(bank.features) // 1000  # the same number on every rank
        for method, features in zip(self.method.methods, known, strict=True):
            assert isinstance(method.normalize, RunningStatistics)
            method.normalize.fit(features.tensor_split(batches))

    def fit_views(self, first: Tensor, second: Tensor) -> None:
        """Fits the whitenings to the teacher's features (N, dt) of two views of all images."""
        self.to(first.device)
        part, widths = ranks.own_part(len(first)), self.teacher.widths
        views = (view[part].split(widths, dim=1) for view in (first, second))
        for method, *known in zip(self.method.methods, *views, strict=True):
            assert isinstance(method.normalize, Whitening)
            method.normalize.fit_views(*known)

    def forward(
        self, students: list[Tensor], batch: Batch, augmented: Tensor, clean: Tensor
    ) -> dict[str, Tensor]:
        """Computes the losses of an update, by name.

        `distill_loss` is returned without its weight, `aggregated_loss` with its weight. All
        tensors of 2B rows hold B fake images followed by B real ones.

        Args:
            students: features (2B, ds), one tensor per pair.
            batch: the real images' batch.
            augmented, clean: images (2B, C, H, W), as the discriminator saw them and before
                augmentation.
        """
        b = len(batch.labels)
        fake, real = slice(None, b), slice(b, None)
        part = {"both": slice(None), "fake": fake, "real": real}[self.images]
        target = self._target(part, batch, augmented, clean)
        students = [s[part] for s in students]
        if self.method.least_batch > 1 and ranks.world() > 1:
            # these losses relate every sample to every other, on all ranks
            *students, target = (self._of_all_ranks(x) for x in (*students, target))
        targets = target.split(self.teacher.widths, dim=1)
        features = [feature(s) for feature, s in zip(self.features, students, strict=True)]
        losses = {"distill_loss": self.method([scaled for _, scaled in features], targets)}
        index = self.score_pair
        if self.aggregated_weight and index is not None:
            mapped = features[index][0] if self.head is None else self.head(students[index])
            term = self.aggregated(mapped, targets[index])
            losses["aggregated_loss"] = self.aggregated_weight * term
        return losses

    def sides(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, ds), (B, dt) of the first pair -> projected student and target (B, dt)."""
        _, scaled = self.features[0](student)
        method: Any = self.method.methods[0]
        return method.sides(scaled, teacher)

    def _of_all_ranks(self, features: Tensor) -> Tensor:
        """Gathers the rows of all ranks, those of fake images before those of real ones."""
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
