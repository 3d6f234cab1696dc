"""Path length regularisation of a generator's styles (Karras et al., CVPR 2020, section 3.2)."""

import math

import torch
from torch import Tensor

from gan_vkd.distill.precision import at_least_float32
from gan_vkd.runtime import ranks

DECAY = 0.99  # of the average length, as published


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

    As published, the average is first moved towards the mean length of all ranks. The published
    weight is 2, every fourth update, on half of a batch.

    Args:
        lengths: (B,), of `path_lengths`.
        average: a scalar, the average so far; 0 at the start.

    Returns:
        The penalty, and the new average without gradient.
    """
    moved = ranks.mean(lengths.mean()).lerp(average, DECAY)
    return (lengths - moved).square().mean(), moved.detach()
