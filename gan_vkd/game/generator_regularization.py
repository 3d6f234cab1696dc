"""Regularisers of the generator: path length regularisation.

Karras et al., CVPR 2020, section 3.2. In float32 or better; none synchronises with the
device.
"""

import math
from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor

from gan_vkd.distill.precision import Precise, at_least_float32
from gan_vkd.runtime import ranks

DECAY = 0.99  # of the average length, as published
SHRINK = 2  # one of so many images of a batch is regularised, as published


class GeneratorUpdate(NamedTuple):
    """The inputs of a regulariser in one update of the generator.

    iteration: of the training, counted from 0. labels: (B,), of the images of the update. styled:
    maps labels (B,) to new images (B, C, H, W) and the styles (B, L, d) behind them.
    """

    iteration: int
    labels: Tensor
    styled: Callable[[Tensor], tuple[Tensor, Tensor]]


class GeneratorRegularizer(Precise):
    """Base class of a term of the generator's loss. Its state dict is part of the checkpoints.

    name: key of the term among the logged values.
    """

    name: str

    def penalty(self, update: GeneratorUpdate) -> Tensor | None:
        """Returns the weighted term, a scalar; None at updates in which it is not computed."""
        raise NotImplementedError

    def variant(self, iteration: int) -> Hashable:
        """Everything that `penalty` decides on the host from the iteration."""
        return None


def path_lengths(images: Tensor, styles: Tensor, noise: Tensor) -> Tensor:
    """How far the images move with their styles: ||J^T y||, in the norm of one layer on average.

    Args:
        images: (B, C, H, W), computed from `styles` with gradients enabled.
        styles: (B, L, d), for each of L layers.
        noise: y before its division by sqrt(H W), (B, C, H, W), standard normal.

    Returns:
        (B,), differentiable in whatever the images are.
    """
    height, width = images.shape[2:]
    along = (at_least_float32(images) * noise).sum() / math.sqrt(height * width)
    (gradient,) = torch.autograd.grad(along, styles, create_graph=True)
    return at_least_float32(gradient).square().sum(2).mean(1).sqrt()


def path_length_penalty(lengths: Tensor, average: Tensor) -> tuple[Tensor, Tensor]:
    """E (||J^T y|| - a)^2, and the average a that it was computed with (equation 4).

    As published, the average is first moved towards the mean length of all ranks.

    Args:
        lengths: (B,), of `path_lengths`.
        average: a scalar, the average so far; 0 at the start.

    Returns:
        The penalty, and the new average without gradient.
    """
    moved = ranks.mean(lengths.mean()).lerp(average.to(lengths.dtype), DECAY)
    return (lengths - moved).square().mean(), moved.detach()


class PathLength(GeneratorRegularizer):
    """Path length regularisation of new images, for every second label of a batch.

    Args:
        weight: of the penalty; 2 as published.
        every: the penalty is computed at every `every`-th update and multiplied by `every` (lazy
            regularisation, appendix B); 4 as published.
    """

    name = "path_length_loss"

    average: Tensor

    def __init__(self, weight: float = 2.0, every: int = 4) -> None:
        super().__init__()
        self.weight, self.every = weight, every
        self.register_buffer("average", torch.zeros(()))

    def variant(self, iteration: int) -> bool:
        """Whether the penalty is computed."""
        return iteration % self.every == 0

    def penalty(self, update: GeneratorUpdate) -> Tensor | None:
        if not self.variant(update.iteration):
            return None
        images, styles = update.styled(update.labels[::SHRINK])

        def draw(count: int) -> Tensor:
            return torch.randn(count, *images.shape[1:], dtype=images.dtype, device=images.device)

        noise = ranks.own_rows(draw, len(images))
        penalty, moved = path_length_penalty(path_lengths(images, styles, noise), self.average)
        self.average.copy_(moved)
        return self.weight * self.every * penalty
