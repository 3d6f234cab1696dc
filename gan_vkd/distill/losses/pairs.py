"""Distillation of several pairs of layers of student and teacher."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LayerPairs(nn.Module):
    """The weighted sum of one loss per pair of layers.

    Args:
        methods: one loss per pair, called with its student and teacher features.
        weights: one per pair.
    """

    def __init__(self, methods: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.methods, self.weights = nn.ModuleList(methods), list(weights)

    @property
    def least_batch(self) -> int:
        """Smallest batch size that the losses need; above 1 if one compares samples."""
        return max(getattr(method, "least_batch", 1) for method in self.methods)

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
        """Features (B, ds) and (B, dt) of every pair -> a scalar."""
        pairs = zip(self.weights, self.methods, students, teachers, strict=True)
        return torch.stack([weight * method(s, t) for weight, method, s, t in pairs]).sum()
