"""Networks with an intermediate latent w, which has a style for each layer: StyleGAN2."""

from pathlib import Path

import torch
from torch import Tensor

from gan_vkd.networks import stylegan2
from gan_vkd.networks.interface import Generator
from gan_vkd.runtime.errors import SettingsError


def has_styles(generator: Generator) -> bool:
    return isinstance(generator, stylegan2.Generator)


def with_styles(generator: Generator, run: Path, purpose: str) -> stylegan2.Generator:
    """Returns the generator; raises SettingsError if it has no w, which the purpose needs."""
    if not isinstance(generator, stylegan2.Generator):
        raise SettingsError(f"{purpose} needs a latent w, and the network of {run} has none")
    return generator


@torch.no_grad()
def styles_of(generator: stylegan2.Generator, latents: Tensor, labels: Tensor) -> Tensor:
    """Latents (B, z_dim) and labels (B,) -> truncated styles of all layers, (B, styles, w_dim)."""
    mapping, count = generator.mapping, generator.synthesis.styles
    w = torch.cat([mapping(z[None], y[None]) for z, y in zip(latents, labels, strict=True)])
    return mapping.w_avg.lerp(w, generator.psi)[:, None].expand(-1, count, -1)
