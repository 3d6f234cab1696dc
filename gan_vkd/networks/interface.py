"""The interface of generators and discriminators, and the registry of architectures.

A new architecture is one file: a subclass of `Architecture`, registered under its name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gan_vkd.networks.layers import Standardization
from gan_vkd.runtime.registry import Registry


class Generator(nn.Module):
    """Base class; `forward(z, labels)` maps (B, z_dim), (B,) to images (B, 3, R, R) in [-1, 1].

    resolution: R.
    z_dim: width of the latent.
    classes: number of classes; 0 for an unconditional generator, whose labels are all 0.
    """

    resolution: int
    z_dim: int
    classes: int

    def latents(
        self, count: int, device: str | torch.device = "cpu", source: torch.Generator | None = None
    ) -> Tensor:
        """Draws latents (count, z_dim) from the standard normal distribution."""
        return torch.randn(count, self.z_dim, device=device, generator=source)

    def batch_norms(self) -> list[Standardization]:
        """The batch norms, whose statistics may be re-estimated before sampling."""
        return [module for module in self.modules() if isinstance(module, Standardization)]


class DiscriminatorOutput(NamedTuple):
    """Score (B,), and the features (B, width) that it is computed from."""

    score: Tensor
    features: Tensor


class Discriminator(nn.Module):
    """Base class; `forward(images, labels)` maps (B, 3, R, R), (B,) to a DiscriminatorOutput.

    resolution: R.
    classes: number of classes; 0 for an unconditional discriminator.
    width: of the features.
    positions: number of positions that the features are summed over; 1 if they are not a sum.
    """

    resolution: int
    classes: int
    width: int
    positions: int = 1


@contextmanager
def in_eval_mode(*networks: nn.Module) -> Iterator[None]:
    """Context in which the networks are in eval mode; each module returns to its own mode."""
    training = [module for network in networks for module in network.modules() if module.training]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class Architecture:
    """Builds a generator and the discriminator that it is trained against."""

    def generator(self, resolution: int, classes: int) -> Generator:
        raise NotImplementedError

    def discriminator(self, resolution: int, classes: int) -> Discriminator:
        raise NotImplementedError


NETWORKS: Registry[Architecture] = Registry("network")
