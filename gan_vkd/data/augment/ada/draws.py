"""Random parameters of an augmented batch."""

import torch
from torch import Tensor

from gan_vkd.runtime.ranks import own_rows


class Draws:
    """Draws parameters, a row for each sample, from torch's global generator.

    Every rank draws those of the whole batch and keeps its own rows.

    Args:
        p: probability () with which an operation is applied to a sample.
        images: (B, C, H, W), whose number, type and device the parameters have.
    """

    def __init__(self, p: Tensor, images: Tensor) -> None:
        self.p, self.count = p, len(images)
        self.dtype, self.device = images.dtype, images.device

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers (B, *shape) in [0, 1)."""

        def draw(n: int) -> Tensor:
            return torch.rand(n, *shape, dtype=self.dtype, device=self.device)

        return own_rows(draw, self.count)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers (B, *shape)."""

        def draw(n: int) -> Tensor:
            return torch.randn(n, *shape, dtype=self.dtype, device=self.device)

        return own_rows(draw, self.count)

    def whole(self, choices: int) -> Tensor:
        """Whole numbers (B,) from 0 to `choices` - 1, equally likely."""
        return (choices * self.uniform()).floor()

    def lognormal(self, octaves: float) -> Tensor:
        """Factors (B,) whose base-2 logarithm has mean 0 and standard deviation `octaves`."""
        return torch.exp2(octaves * self.normal())

    def applied(self, p: Tensor | None = None) -> Tensor:
        """Returns (B,) bool: whether an operation is applied; p () takes the place of its own."""
        return self.uniform() < (self.p if p is None else p)

    def sometimes(self, value: Tensor, neutral: float, p: Tensor | None = None) -> Tensor:
        """Returns `value` (B, ...) of the samples to which it is applied, `neutral` of others."""
        applied = self.applied(p).view(-1, *[1] * (value.dim() - 1))
        return torch.where(applied, value, neutral)
