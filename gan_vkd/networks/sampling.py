"""Samples of a generator; latents and labels depend on the seed alone, not on the device."""

import torch
from torch import Tensor

from gan_vkd.data.image_set import to_uint8
from gan_vkd.networks.interface import Generator
from gan_vkd.runtime.bars import progress_bar


def draw_inputs(
    generator: Generator, shares: list[float], count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Draws latents (count, z_dim) and labels (count,) on the CPU, from the seed alone.

    Labels are distributed as `shares`, the class frequencies of the training set.
    """
    source = torch.Generator().manual_seed(seed)
    weights = torch.tensor(shares, dtype=torch.float64)
    labels = torch.multinomial(weights, count, replacement=True, generator=source)
    return generator.latents(count, source=source), labels


@torch.no_grad()
def generate(generator: Generator, latents: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """Latents (N, z_dim), labels (N,) -> uint8 samples (N, C, H, W), on the generator's device."""
    device = next(generator.parameters()).device
    batches = list(zip(latents.split(batch_size), labels.split(batch_size), strict=True))
    images = [
        to_uint8(generator(z.to(device), y.to(device))) for z, y in progress_bar(batches, "samples")
    ]
    return torch.cat(images)


def draw_samples(
    generator: Generator,
    shares: list[float],
    count: int,
    batch_size: int,
    seed: int,
    part: slice = slice(None),
) -> Tensor:
    """Returns uint8 samples (count, C, H, W) from `draw_inputs`, or a part of them.

    They are rounded as image files would be, and stay on the generator's device.
    """
    latents, labels = draw_inputs(generator, shares, count, seed)
    return generate(generator, latents[part], labels[part], batch_size)
