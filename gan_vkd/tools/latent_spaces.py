"""The latent spaces that pictures are projected into: z of any network, w and w+ of StyleGAN2."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.func import functional_call

from gan_vkd.networks import stylegan2
from gan_vkd.networks.interface import Generator
from gan_vkd.networks.sampling import draw_inputs
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.tools.perceptual import Distance
from gan_vkd.tools.styles import has_styles, with_styles

LATENTS = 10_000  # that the mean and deviation of w are taken of, as published
CANDIDATES = 1_000  # latents that the nearest one is the start in z


class LatentSpace(Protocol):
    """A space to optimise in.

    start: the first latent, with a leading dimension of 1. deviation: root of the mean squared
    distance of latents from their mean. noises: the noise maps that are optimised as well, by the
    names of the generator's buffers.
    """

    start: Tensor
    deviation: float
    noises: dict[str, Tensor]

    def images(self, latent: Tensor, noises: dict[str, Tensor]) -> Tensor:
        """The picture (1, C, H, W) of a latent."""
        ...

    def state(self, latent: Tensor) -> dict[str, Tensor]:
        """What a picture is made from, apart from the noise maps: w (L, d), or z (d,) and label."""
        ...


class W:
    """w, one style for all layers, or w+, one for each; starts at the mean of w.

    Args:
        generator: frozen, in eval mode.
        shares: frequencies of the classes that the mean is taken over.
        seed: of the latents and noise maps.
        each: whether each layer has its own style.
    """

    def __init__(
        self, generator: stylegan2.Generator, shares: list[float], seed: int, *, each: bool
    ) -> None:
        self.generator, self.styles = generator, generator.synthesis.styles
        device = next(generator.parameters()).device
        latents, labels = draw_inputs(generator, shares, LATENTS, seed)
        with torch.no_grad():
            w = generator.mapping(latents.to(device), labels.to(device))
            mean = w.mean(0)
            self.deviation = float((w - mean).square().sum(1).mean().sqrt())
        self.start = mean.repeat(1, self.styles if each else 1, 1)
        source = torch.Generator().manual_seed(seed)
        self.noises = {
            name: torch.randn(buffer.shape, generator=source).to(device)
            for name, buffer in generator.named_buffers()
            if name.endswith("noise_const")
        }

    def images(self, latent: Tensor, noises: dict[str, Tensor]) -> Tensor:
        inner = {name.removeprefix("synthesis."): noise for name, noise in noises.items()}
        styles = latent.expand(-1, self.styles, -1)
        return functional_call(self.generator.synthesis, inner, (styles, "constant"))

    def state(self, latent: Tensor) -> dict[str, Tensor]:
        return {"w": latent[0].expand(self.styles, -1)}


class Z:
    """z; starts at the nearest of many random latents, whose class is kept.

    Args:
        generator: frozen, in eval mode.
        shares: frequencies of the classes.
        seed: of the latents.
        distance: images (B, C, H, W) -> (B,).
    """

    def __init__(
        self,
        generator: Generator,
        shares: list[float],
        seed: int,
        distance: Callable[[Tensor], Tensor],
    ) -> None:
        self.generator, self.deviation = generator, math.sqrt(generator.z_dim)
        device = next(generator.parameters()).device
        latents, labels = (x.to(device) for x in draw_inputs(generator, shares, CANDIDATES, seed))
        with torch.no_grad():
            pairs = zip(latents.split(50), labels.split(50), strict=True)
            found = torch.cat([distance(generator(z, y)) for z, y in pairs])
        nearest = found.argmin()
        self.start, self.labels = latents[nearest][None], labels[nearest][None]
        self.noises: dict[str, Tensor] = {}

    def images(self, latent: Tensor, noises: dict[str, Tensor]) -> Tensor:
        return self.generator(latent, self.labels)

    def state(self, latent: Tensor) -> dict[str, Tensor]:
        return {"z": latent[0], "label": self.labels[0]}


def space_named(
    name: str | None,
    generator: Generator,
    shares: list[float],
    seed: int,
    distance: Distance,
    run: Path,
) -> LatentSpace:
    """The space z, w or w+; None: w if the network has it, otherwise z.

    Raises:
        SettingsError: another name, or w of a network without.
    """
    if name == "z" or (name is None and not has_styles(generator)):
        return Z(generator, shares, seed, lambda images: torch.stack(distance(images)).sum(0))
    if name not in (None, "w", "w+"):
        raise SettingsError(f"--space {name}: expected z, w or w+")
    network = with_styles(generator, run, f"--space {name}")
    return W(network, shares, seed, each=name == "w+")
