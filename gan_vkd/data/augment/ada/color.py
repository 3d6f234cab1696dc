"""Random colour transformations, each an affine map of colours: matrices (B, 4, 4)."""

import math

import torch
from torch import Tensor

from gan_vkd.data.augment.ada.draws import Draws


def recolored(images: Tensor, matrices: Tensor) -> Tensor:
    """Maps the colours of images (B, C, H, W); a fourth channel (alpha) stays.

    Grey images (C = 1) get the mean of the channels that the map gives for grey: every operation
    here maps grey to grey.
    """
    linear, offset = matrices[:, :3, :3], matrices[:, :3, 3]
    if images.shape[1] == 1:
        linear, offset = linear.sum((1, 2), keepdim=True) / 3, offset.mean(1, keepdim=True)
    mapped = torch.einsum("bij,bjhw->bihw", linear, images[:, :3]) + offset[:, :, None, None]
    return torch.cat([mapped, images[:, 3:]], 1)


def colors(draws: Draws) -> Tensor:
    """Brightness, contrast, luma flip, hue and saturation, in this order: (B, 4, 4)."""
    return saturation(draws) @ hue(draws) @ luma_flip(draws) @ contrast(draws) @ brightness(draws)


def brightness(draws: Draws) -> Tensor:
    """Adds a normally distributed number, with a standard deviation of 0.2, to all channels."""
    added = draws.sometimes(0.2 * draws.normal(), 0)
    matrix = torch.eye(4, dtype=added.dtype, device=added.device).repeat(len(added), 1, 1)
    matrix[:, :3, 3] = added[:, None]
    return matrix


def contrast(draws: Draws) -> Tensor:
    """Scales colours by a factor with a standard deviation of half an octave."""
    return _along_and_across(*[draws.sometimes(draws.lognormal(0.5), 1)] * 2)


def luma_flip(draws: Draws) -> Tensor:
    """Inverts the luma of half of the samples to which it is applied, with the same chroma."""
    sign = draws.sometimes(1 - 2 * draws.whole(2), 1)
    return _along_and_across(sign, torch.ones_like(sign))


def hue(draws: Draws) -> Tensor:
    """Rotates colours around the grey axis by any angle."""
    angle = draws.sometimes(torch.pi * (2 * draws.uniform() - 1), 0)
    turned = _along_and_across(torch.ones_like(angle), angle.cos())
    turned[:, :3, :3] += angle.sin()[:, None, None] * _cross(turned)
    return turned


def saturation(draws: Draws) -> Tensor:
    """Scales chroma by a factor with a standard deviation of one octave."""
    factor = draws.sometimes(draws.lognormal(1.0), 1)
    return _along_and_across(torch.ones_like(factor), factor)


def _along_and_across(luma: Tensor, chroma: Tensor) -> Tensor:
    """Matrices (B, 4, 4) that scale the part along the grey axis and that across it by (B,)."""
    matrix = torch.eye(4, dtype=luma.dtype, device=luma.device).repeat(len(luma), 1, 1)
    identity, grey = matrix[:, :3, :3], torch.full_like(matrix[:, :3, :3], 1 / 3)
    luma, chroma = luma[:, None, None], chroma[:, None, None]
    matrix[:, :3, :3] = luma * grey + chroma * (identity - grey)
    return matrix


def _cross(like: Tensor) -> Tensor:
    """The matrix (3, 3) of the cross product of the unit vector of grey with a colour."""
    eye = torch.eye(3, dtype=like.dtype, device=like.device)
    return (eye.roll(1, 0) - eye.roll(-1, 0)) / math.sqrt(3)
