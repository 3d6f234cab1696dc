"""Grey and transparent images for networks that take RGB."""

from collections.abc import Sequence

import torch
from torch import Tensor

WHITE = (1.0, 1.0, 1.0)


def as_rgb(images: Tensor, background: Tensor) -> Tensor:
    """Images (B, C, H, W) in [0, 1] -> (B, 3, H, W), differentiable.

    Grey (C = 1) is repeated. RGBA (C = 4) is put on the background: a c + (1 - a) b, where alpha,
    which generators may exceed, is clamped to [0, 1]. RGB is returned as it is.

    Args:
        images: with 1, 3 or 4 channels.
        background: colour in [0, 1], broadcast with (B, 3, H, W).
    """
    if images.shape[1] == 4:
        alpha = images[:, 3:].clamp(0, 1)
        return alpha * images[:, :3] + (1 - alpha) * background
    return images.expand(-1, 3, -1, -1)


def as_map(colour: Sequence[float]) -> Tensor:
    """A colour as (1, C, 1, 1)."""
    return torch.tensor(colour).view(1, -1, 1, 1).float()
