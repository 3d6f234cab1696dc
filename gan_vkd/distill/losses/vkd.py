"""VkD: distillation by orthogonal projection."""

from typing import Annotated

from torch import Tensor, nn

from gan_vkd.distill.losses.distances import DISTANCES
from gan_vkd.distill.losses.registry import METHODS
from gan_vkd.distill.normalization import NORMALIZATIONS
from gan_vkd.distill.precision import at_least_float32
from gan_vkd.distill.projection import PROJECTIONS
from gan_vkd.runtime.registry import Chosen


@METHODS.register("vkd")
class VkDLoss(nn.Module):
    """distance(Zs P^T, normalise(Zt)) (Miles, Elezi and Deng, CVPR 2024, algorithm 1).

    Args:
        student_width: ds.
        teacher_width: dt.
        projection: one of PROJECTIONS, as a name or as a mapping of name and options.
        normalization: one of NORMALIZATIONS, given likewise, e.g. {"name": "whitening", "eps": 0}.
        distance: a name in DISTANCES; averaged over samples.
    """

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        *,
        projection: Annotated[Chosen, PROJECTIONS] = "orthogonal",
        normalization: Annotated[Chosen, NORMALIZATIONS] = "whitening",
        distance: Annotated[str, DISTANCES] = "mse",
    ) -> None:
        super().__init__()
        self.project = PROJECTIONS.make(projection, student_width, teacher_width)
        self.normalize = NORMALIZATIONS.make(normalization, teacher_width)
        self.distance = DISTANCES[distance]

    def sides(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ds) and (B, dt) -> the projected student and its target, (B, dt) each."""
        projected = at_least_float32(self.project(student))
        return projected, self.normalize(teacher).to(projected.dtype)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, ds) and (B, dt) -> a scalar; gradients reach the student and P only."""
        return self.distance(*self.sides(student, teacher))
