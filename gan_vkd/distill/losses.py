"""Distillation losses with one call: loss = method(student_features, teacher_features)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_vkd.distill.normalization import make_normalization
from gan_vkd.distill.precision import at_least_float32
from gan_vkd.distill.projection import make_projection

DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "smooth_l1": F.smooth_l1_loss,
    "l1": F.l1_loss,
}


class VkDLoss(nn.Module):
    """distance(Zs P^T, normalise(Zt)) (Miles, Elezi and Deng, CVPR 2024, algorithm 1).

    Its parameters (the projection's) train with the student and are dropped with it.

    Args:
        student_width: ds.
        teacher_width: dt.
        projection: a name in PROJECTIONS.
        normalization: a name in NORMALIZATIONS.
        distance: a name in DISTANCES; averaged over samples and dimensions.
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

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, ds) and (B, dt) -> a scalar, with a gradient for the student and P only."""
        projected = at_least_float32(self.project(student))
        return self.distance(projected, self.normalize(teacher).to(projected.dtype))


class LayerPairs(nn.Module):
    """The weighted sum of one loss a pair of layers, each with its own projection.

    Args:
        methods: one for each pair, called with its student and teacher features.
        weights: of the pairs.
    """

    def __init__(self, methods: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.methods, self.weights = nn.ModuleList(methods), list(weights)

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        """Features (B, ds) and (B, dt) of every pair -> a scalar."""
        pairs = zip(self.weights, self.methods, students, teachers, strict=True)
        return torch.stack([weight * method(s, t) for weight, method, s, t in pairs]).sum()
