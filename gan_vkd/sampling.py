"""Samples of a generator, the same for the same seed on every device."""

import torch
from torch import Tensor

from gan_vkd.data import to_uint8
from gan_vkd.models.biggan import Generator


@torch.no_grad()
def draw_samples(
    generator: Generator,
    shares: list[float],
    count: int,
    batch_size: int,
    seed: int,
    part: slice = slice(None),
) -> Tensor:
    """uint8 samples (count, 3, R, R) on the CPU, or a part of them.

    Latents and labels come from the seed alone, drawn on the CPU: the same on every device. Labels
    follow `shares`, the frequencies of the training set's classes.
    """
    source = torch.Generator().manual_seed(seed)
    device = next(generator.parameters()).device
    weights = torch.tensor(shares, dtype=torch.float64)
    labels = torch.multinomial(weights, count, replacement=True, generator=source)
    latents = torch.randn(count, generator.z_dim, generator=source)
    batches = zip(latents[part].split(batch_size), labels[part].split(batch_size), strict=True)
    images = [to_uint8(generator(z.to(device), y.to(device))).cpu() for z, y in batches]
    return torch.cat(images)
