"""The generator: a learnt basis that the latent modulates, then stages of residual blocks."""

import math

import torch
from torch import Tensor, nn

from gan_vkd.data.shape import Shape
from gan_vkd.distill.precision import at_least_float32, without_autocast
from gan_vkd.networks import interface
from gan_vkd.networks.r3gan.layers import Conv, ResidualBlock, initialize
from gan_vkd.networks.stylegan2.resampling import binomial_filter, upsample


class Basis(nn.Module):
    """Learnt images, each multiplied by a linear function of the latent."""

    def __init__(self, z_dim: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.randn(channels, *size))
        self.linear = nn.Linear(z_dim, channels, bias=False)
        initialize(self.linear.weight)

    def forward(self, z: Tensor) -> Tensor:
        """(B, z_dim) -> (B, channels, *size)."""
        return self.linear(z)[:, :, None, None] * self.basis


class Upsample(nn.Module):
    """Doubles the resolution, after a 1x1 convolution if the number of channels changes."""

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs) if inputs != outputs else nn.Identity()
        self.register_buffer("resample_filter", binomial_filter())

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, 2H, 2W)."""
        return upsample(self.conv(x), self.resample_filter)


class Generator(interface.Generator):
    """Maps latents and labels to images, whose range is [-1, 1] but not bounded.

    Has a stage b4, b8, ... for each power of two; b4 is computed in float32.

    Args:
        shape: of the images.
        widths: channels by stage, from 4 on; sides are doubled in all stages but the first.
        classes: number of classes, 0 for an unconditional generator.
        z_dim: width of the latent, and of the embedding of the class.
        blocks, expansion, group_width: number of residual blocks in a stage, and their options.
    """

    b4: nn.Sequential

    def __init__(
        self,
        shape: Shape,
        widths: dict[int, int],
        classes: int = 0,
        *,
        z_dim: int = 64,
        blocks: int = 2,
        expansion: int = 2,
        group_width: int = 16,
    ) -> None:
        super().__init__()
        self.shape, self.z_dim, self.classes = shape, z_dim, classes
        self.names = [f"b{side}" for side in widths]
        channels = list(widths.values())
        start = shape.halved(len(widths) - 1)
        size = start.height, start.width
        firsts: list[nn.Module] = [Basis(z_dim * (2 if classes else 1), channels[0], size)]
        firsts += map(Upsample, channels, channels[1:])
        depth = blocks * len(widths)
        for name, first, width in zip(self.names, firsts, channels, strict=True):
            rest = (ResidualBlock(width, expansion, group_width, depth) for _ in range(blocks))
            self.add_module(name, nn.Sequential(first, *rest))
        self.to_rgb = Conv(channels[-1], shape.channels)
        if classes:
            self.embed = nn.Embedding(classes, z_dim)
            nn.init.normal_(self.embed.weight, 0, 1 / math.sqrt(classes))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """(B, z_dim) and (B,) -> (B, C, H, W)."""
        if self.classes:
            z = torch.cat([z, self.embed(labels)], 1)
        with without_autocast(z):
            x = self.b4(z)
        for name in self.names[1:]:
            x = self.get_submodule(name)(x)
        with without_autocast(x):
            return self.to_rgb(at_least_float32(x))
