"""Random corruptions: noise and cutout."""

import torch
from torch import Tensor

from gan_vkd.data.augment.ada.draws import Draws

NOISE = 0.1  # standard deviation of the normal number whose size is the noise's
SIDE = 0.5  # of the rectangle that is cut out, in sides of the image


def noisy(images: Tensor, draws: Draws) -> Tensor:
    """Adds white noise of a half-normally distributed size to images (B, C, H, W)."""
    size = draws.sometimes(NOISE * draws.normal().abs(), 0)
    return images + size[:, None, None, None] * draws.normal(*images.shape[1:])


def cut(images: Tensor, draws: Draws) -> Tensor:
    """Zeros a rectangle half as high and wide as the image, centred anywhere in it."""
    height, width = images.shape[2:]
    side, centre = SIDE * draws.applied(), draws.uniform(2)
    rows = _inside(height, centre[:, 1], side)[:, :, None]
    columns = _inside(width, centre[:, 0], side)[:, None, :]
    return images.masked_fill((rows & columns)[:, None], 0)


def _inside(length: int, centre: Tensor, side: Tensor) -> Tensor:
    """Returns (B, length), true where a pixel's centre is within half a side (B,) of `centre`."""
    pixel = (torch.arange(length, device=centre.device, dtype=centre.dtype) + 0.5) / length
    return (pixel - centre[:, None]).abs() < side[:, None] / 2
