"""Resampling by 2 with the filter [1, 3, 3, 1] along both axes (Karras et al., CVPR 2020, app. B).

Outside of an image there are zeros. The filter is computed in the type of its input: its values are
exact in bfloat16, and autocast would round float32 images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_vkd.distill.precision import without_autocast


def binomial_filter() -> Tensor:
    """The filter (4, 4), which sums to 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return taps[:, None] * taps


def _per_channel(kernel: Tensor, x: Tensor) -> Tensor:
    return kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1)


def blur(x: Tensor, kernel: Tensor, *, padding: int, stride: int = 1) -> Tensor:
    """Filters images (B, C, H, W) with `padding` zeros at each border, at every `stride`-th pixel.

    The sides are (H + 2 * padding - 3) / stride, rounded up.
    """
    with without_autocast(x):
        weight = _per_channel(kernel, x)
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=x.shape[1])


def downsample(x: Tensor, kernel: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H / 2, W / 2): filtered, then every second pixel."""
    return blur(x, kernel, padding=1, stride=2)


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W): zeros between the pixels, then filtered, with a gain of 4."""
    with without_autocast(x):
        weight = _per_channel(4 * kernel, x)
        return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=x.shape[1])
