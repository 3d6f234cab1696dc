"""Affine resampling with an anti-aliasing filter: 2x supersampling between two sym6 filters."""

import torch
from torch import Tensor

from gan_vkd.data.augment.ada.wavelets import CENTRE, downsampling, upsampling


def warp(images: Tensor, inverse: Tensor) -> Tensor:
    """Transforms images (B, C, H, W), which go on as their mirror images beyond their borders.

    They are read from one period of this endless pattern, which takes the place of padding with a
    margin that would depend on the drawn transforms. The result is linear in the images; the
    transforms get no gradient.

    Args:
        inverse: (B, 3, 3), as in gan_vkd/data/augment/ada/geometry.py.
    """
    height, width = images.shape[2:]
    like = images.device, images.dtype
    pattern = upsampling(height, *like) @ images @ upsampling(width, *like).T
    down, across = downsampling(height, *like), downsampling(width, *like)
    y, x = (
        torch.arange(-CENTRE, matrix.shape[1] - CENTRE, device=like[0]) - (len(matrix) - 1)
        for matrix in (down, across)
    )  # in samples, from the centre of the image
    a, b, c, d, e, f = inverse[:, :2].flatten(1)[:, :, None, None].unbind(1)
    rows = d * x + e * y[:, None] + 2 * f + (height - 1)
    columns = a * x + b * y[:, None] + 2 * c + (width - 1)
    sampled = bilinear(pattern, rows, columns)
    return down @ sampled @ across.T


def bilinear(pattern: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Interpolates a periodic pattern (B, C, P + 1, Q + 1) at rows and columns (B, H, W).

    The last row and column repeat the first. Made of `gather`: `grid_sample` has no second
    derivative, which R1 needs, and rounds positions.
    """
    height, width = pattern.shape[2:]
    rows, columns = rows.remainder(height - 1), columns.remainder(width - 1)
    # a remainder of -1e-9 is rounded to the period itself
    top, left = rows.floor().clamp(max=height - 2), columns.floor().clamp(max=width - 2)
    down, right = (rows - top)[:, None], (columns - left)[:, None]
    corner = (top.long() * width + left.long()).flatten(1)[:, None]
    pixels = pattern.flatten(2)

    def at(offset: int) -> Tensor:
        index = (corner + offset).expand(-1, pattern.shape[1], -1)
        return pixels.gather(2, index).unflatten(2, rows.shape[1:])

    upper = at(0).lerp(at(1), right)
    lower = at(width).lerp(at(width + 1), right)
    return upper.lerp(lower, down)
