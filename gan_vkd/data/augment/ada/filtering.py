"""Random amplification of frequency bands."""

import torch
from torch import Tensor

from gan_vkd.data.augment.ada.draws import Draws
from gan_vkd.data.augment.ada.wavelets import bands

POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # expected in the bands of natural images: 1/f spectrum


def gains(draws: Draws) -> Tensor:
    """Draws the bands' gains (B, 4), with a standard deviation of one octave each.

    Each band is changed with probability p; every change is divided by what it does to the
    expected power.
    """
    changes = []
    for band, power in enumerate(POWER):
        factor = draws.sometimes(draws.lognormal(1.0), 1)
        norm = (1 - power + power * factor.square()).sqrt()
        of_bands = [(factor if other == band else 1) / norm for other in range(len(POWER))]
        changes.append(torch.stack(of_bands, 1))
    return torch.stack(changes).prod(0)


def amplified(images: Tensor, gains: Tensor) -> Tensor:
    """Filters images (B, C, H, W) along both axes with their bands multiplied by gains (B, 4)."""
    down, across = (
        torch.einsum("bk,kij->bij", gains, bands(size, images.device, images.dtype))[:, None]
        for size in images.shape[2:]
    )
    return down @ images @ across.mT
