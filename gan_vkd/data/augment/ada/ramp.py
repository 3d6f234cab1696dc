"""A probability that rises to a given value, instead of following the discriminator."""

import math

import torch
from torch import Tensor

from gan_vkd.data.augment.ada.controller import Controller
from gan_vkd.runtime.across import world


class Ramp(Controller):
    """p rises from 0 to `end` along half a cosine over the first real images, then stays.

    R3GAN's published schedule (Huang et al., NeurIPS 2024). r_t is measured but changes nothing.

    Args:
        end: the last value of p.
        every: discriminator updates between two measurements of r_t.
        kimg: thousands of real images in which p rises.
    """

    images: Tensor

    def __init__(self, end: float, every: int, kimg: float) -> None:
        super().__init__(0.0, every=every, kimg=math.inf)
        self.end, self.length = end, 1000 * kimg
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))  # so far

    @torch.no_grad()
    def observe(self, real_scores: Tensor) -> None:
        super().observe(real_scores)
        self.images += len(real_scores) * world()
        done = (self.images / self.length).clamp(max=1)
        self.p.copy_(self.end * (1 - torch.cos(math.pi * done)) / 2)
