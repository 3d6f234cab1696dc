"""Images for networks that take other channels: grey, RGB or RGBA."""

from collections.abc import Sequence

import torch
from torch import Tensor

WHITE = (1.0, 1.0, 1.0)
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


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


def with_channels(images: Tensor, channels: int, background: Tensor) -> Tensor:
    """Images (B, C, H, W) in [0, 1] -> (B, channels, H, W), differentiable.

    Other channels are made of RGB (`as_rgb`): grey is its luma, RGBA is opaque.

    Args:
        images: with 1, 3 or 4 channels.
        channels: 1, 3 or 4.
        background: as in `as_rgb`.
    """
    if images.shape[1] == channels:
        return images
    rgb = as_rgb(images, background)
    if channels == 1:
        return (rgb * as_map(LUMA).to(rgb)).sum(1, keepdim=True)
    return rgb if channels == 3 else torch.cat([rgb, torch.ones_like(rgb[:, :1])], 1)


def as_map(colour: Sequence[float]) -> Tensor:
    """A colour as (1, C, 1, 1)."""
    return torch.tensor(colour).view(1, -1, 1, 1).float()
