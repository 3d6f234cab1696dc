"""The discriminator: stages of residual blocks, a learnt basis, and projection on the class."""

import math

import torch
from torch import Tensor, nn

from gan_vkd.data.shape import Shape
from gan_vkd.distill.precision import at_least_float32, without_autocast
from gan_vkd.networks import interface
from gan_vkd.networks.interface import DiscriminatorOutput
from gan_vkd.networks.r3gan.layers import Conv, ResidualBlock, initialize
from gan_vkd.networks.stylegan2.resampling import binomial_filter, downsample


class Downsample(nn.Module):
    """Halves the resolution, before a 1x1 convolution if the number of channels changes."""

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs) if inputs != outputs else nn.Identity()
        self.register_buffer("resample_filter", binomial_filter())

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / 2, W / 2)."""
        return self.conv(downsample(x, self.resample_filter))


class Basis(nn.Module):
    """The product of each channel with a learnt image: a depthwise convolution without padding."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, *size))
        initialize(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *size) -> (B, channels)."""
        return (x * self.weight[:, 0]).sum((2, 3))


class Discriminator(interface.Discriminator):
    """Maps images to a score; has a stage bR, ..., b8, b4 for each power of two.

    The features are the products with the basis, which are the output of b4; b4 and what follows is
    computed in float32.

    Args:
        shape: of the images.
        widths: channels by stage, from 4 on; sides are halved in all stages but the last.
        classes: number of classes, 0 for an unconditional discriminator.
        blocks, expansion, group_width: number of residual blocks in a stage, and their options.
    """

    b4: nn.Sequential

    def __init__(
        self,
        shape: Shape,
        widths: dict[int, int],
        classes: int = 0,
        *,
        blocks: int = 2,
        expansion: int = 2,
        group_width: int = 16,
    ) -> None:
        super().__init__()
        self.shape, self.classes, self.width = shape, classes, widths[4]
        self.names = [f"b{side}" for side in widths][::-1]
        channels = list(widths.values())[::-1]
        self.from_rgb = Conv(shape.channels, channels[0])
        lasts: list[nn.Module] = [*map(Downsample, channels, channels[1:])]
        start = shape.halved(len(widths) - 1)
        lasts.append(Basis(self.width, (start.height, start.width)))
        depth = blocks * len(widths)
        for name, last, width in zip(self.names, lasts, channels, strict=True):
            rest = (ResidualBlock(width, expansion, group_width, depth) for _ in range(blocks))
            self.add_module(name, nn.Sequential(*rest, last))
        self.out = nn.Linear(self.width, self.width if classes else 1, bias=False)
        initialize(self.out.weight)
        if classes:
            self.embed = nn.Embedding(classes, self.width)
            nn.init.normal_(self.embed.weight, 0, 1 / math.sqrt(classes * self.width))

    def lower_layers(self) -> list[nn.Module]:
        """The first convolution, and all stages but the last."""
        return [self.from_rgb, *(self.get_submodule(name) for name in self.names[:-1])]

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, width), the input of the last layer."""
        x = self.from_rgb(images)
        for name in self.names[:-1]:
            x = self.get_submodule(name)(x)
        with without_autocast(x):
            return self.b4(at_least_float32(x))

    def forward(self, images: Tensor, labels: Tensor) -> DiscriminatorOutput:
        """Scores by projection on the embedding of the class (Miyato and Koyama, ICLR 2018)."""
        features = self.features(images)
        with without_autocast(features):
            score = self.out(features)
            if not self.classes:
                return DiscriminatorOutput(score.squeeze(1), features)
            return DiscriminatorOutput((score * self.embed(labels)).sum(1), features)
