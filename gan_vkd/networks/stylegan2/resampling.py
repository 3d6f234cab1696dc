"""Resampling by 2 with the filter [1, 3, 3, 1] along both axes (Karras et al., CVPR 2020, app. B).

Outside of an image there are zeros. The filter is computed in the type of its input: its values are
exact in bfloat16, and autocast would round float32 images.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_vkd.distill.precision import without_autocast


def binomial_filter() -> Tensor:
    """The filter (4, 4), which sums to 1."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return taps[:, None] * taps


def blur(x: Tensor, kernel: Tensor, *, padding: int, stride: int = 1) -> Tensor:
    """Filters images (B, C, H, W) with `padding` zeros at each border, at every `stride`-th pixel.

    The sides are (H + 2 * padding - 4) / stride + 1; H must be even if the stride is 2.
    """
    return _Filtered.apply(x, kernel, stride, padding, False)


def downsample(x: Tensor, kernel: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H / 2, W / 2): filtered, then every second pixel."""
    return blur(x, kernel, padding=1, stride=2)


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W): zeros between the pixels, then filtered, with a gain of 4."""
    return _Filtered.apply(x, 4 * kernel, 2, 1, True)


class _Filtered(torch.autograd.Function):
    """Convolution of each channel with one filter, or its transpose, which is its derivative.

    torch's second derivative of a convolution with groups loops over the groups: R1 would do so
    over all channels.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, stride: int, padding: int, transposed: bool
    ) -> Tensor:
        ctx.save_for_backward(kernel)
        ctx.options = stride, padding, not transposed
        convolve = F.conv_transpose2d if transposed else F.conv2d
        weight = kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        with without_autocast(x):
            return convolve(x, weight, stride=stride, padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _Filtered.apply(gradient, *ctx.saved_tensors, *ctx.options), None, None, None, None
