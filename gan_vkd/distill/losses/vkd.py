"""Distillation by orthogonal projection: the method of this project."""

from typing import Any

from torch import Tensor, nn

from gan_vkd.distill.losses.distances import DISTANCES
from gan_vkd.distill.normalization import make_normalization
from gan_vkd.distill.precision import at_least_float32
from gan_vkd.distill.projection import make_projection


class VkDLoss(nn.Module):
    """distance(Zs P^T, normalise(Zt)) (Miles, Elezi and Deng, CVPR 2024, algorithm 1).

    Args:
        student_width: ds.
        teacher_width: dt.
        projection: a name in PROJECTIONS.
        normalization: a name in NORMALIZATIONS.
        distance: a name in DISTANCES; a mean over samples.
        options: of the normalisation (momentum, eps, shrinkage, ...).
    """

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        *,
        projection: str = "orthogonal",
        normalization: str = "layer_norm",
        distance: str = "mse",
        **options: Any,
    ) -> None:
        super().__init__()
        self.project = make_projection(projection, student_width, teacher_width)
        self.normalize = make_normalization(normalization, teacher_width, **options)
        self.distance = DISTANCES[distance]

    def sides(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ds) and (B, dt) -> the projected student and its target, (B, dt) each."""
        projected = at_least_float32(self.project(student))
        return projected, self.normalize(teacher).to(projected.dtype)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, ds) and (B, dt) -> a scalar, with a gradient for the student and P only."""
        return self.distance(*self.sides(student, teacher))
