"""What the trainer needs of a generator and of a discriminator, and the registry of architectures.

A new architecture is one file: a class with a `generator` and a `discriminator`, registered under
its name.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gan_vkd.networks.layers import Standardization
from gan_vkd.runtime.registry import Registry


class Generator(nn.Module):
    """Latents and labels to images; `forward(z, labels)` maps (B, z_dim), (B,) -> (B, 3, R, R).

    Images are in [-1, 1].

    resolution: R. z_dim: width of the latent. classes: number of classes, 0 for none; labels are
    then all 0.
    """

    resolution: int
    z_dim: int
    classes: int

    def latents(
        self, count: int, device: str | torch.device = "cpu", source: torch.Generator | None = None
    ) -> Tensor:
        """New latents (count, z_dim), normally distributed."""
        return torch.randn(count, self.z_dim, device=device, generator=source)

    def batch_norms(self) -> list[Standardization]:
        """The layers whose statistics are estimated anew before samples are drawn."""
        return [module for module in self.modules() if isinstance(module, Standardization)]


class Judgement(NamedTuple):
    """What a discriminator says: score (B,), and the features (B, width) that it is taken from."""

    score: Tensor
    features: Tensor


class Discriminator(nn.Module):
    """Images and labels to scores; `forward(images, labels)` maps (B, 3, R, R), (B,) -> Judgement.

    resolution: R. classes: number of classes, 0 for none. width: of the features. positions: that
    the features are the sum over; 1 where they are no sum.
    """

    resolution: int
    classes: int
    width: int
    positions: int = 1


class Architecture:
    """A pair of networks that are trained against each other."""

    def generator(self, resolution: int, classes: int) -> Generator:
        raise NotImplementedError

    def discriminator(self, resolution: int, classes: int) -> Discriminator:
        raise NotImplementedError


NETWORKS: Registry[Architecture] = Registry("network")
