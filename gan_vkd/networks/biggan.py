"""BigGAN (Brock, Donahue and Simonyan, ICLR 2019; appendix B) for 32x32, 64x64 and like shapes.

The CIFAR variant of DiffAugment (Zhao et al., NeurIPS 2020): no attention, no hierarchical latent,
class-conditional batch norm, projection discriminator, spectral norm everywhere. Parameter names
and shapes are those of its published checkpoints, which therefore load unchanged.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_vkd.data.shape import Shape
from gan_vkd.networks import interface
from gan_vkd.networks.interface import NETWORKS, Architecture, DiscriminatorOutput
from gan_vkd.networks.layers import BatchNorm, ClassBatchNorm, SNConv2d, SNEmbedding, SNLinear
from gan_vkd.runtime.settings import Positive

# side of square images (`Shape.square` of others) -> multipliers of ch: the generator's input and
# blocks; the discriminator's blocks
GENERATOR_WIDTHS = {32: [4, 4, 4, 4], 64: [16, 16, 8, 4, 2]}
DISCRIMINATOR_WIDTHS = {32: [4, 4, 4, 4], 64: [1, 2, 4, 8, 16]}
DOWNSAMPLE = {32: [True, True, False, False], 64: [True, True, True, True, False]}


class GeneratorBlock(nn.Module):
    """Residual block that doubles the resolution."""

    def __init__(self, inputs: int, outputs: int, classes: int) -> None:
        super().__init__()
        self.conv1 = SNConv2d(inputs, outputs)
        self.conv2 = SNConv2d(outputs, outputs)
        self.conv_sc = SNConv2d(inputs, outputs, kernel_size=1)
        self.bn1 = ClassBatchNorm(inputs, classes)
        self.bn2 = ClassBatchNorm(outputs, classes)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = F.relu(self.bn1(x, labels))
        h = self.conv1(F.interpolate(h, scale_factor=2.0))
        h = self.conv2(F.relu(self.bn2(h, labels)))
        # nearest upsampling commutes with a 1x1 convolution, which is cheaper before upsampling
        return h + F.interpolate(self.conv_sc(x), scale_factor=2.0)


class Generator(interface.Generator):
    """Maps latents and labels to images in [-1, 1].

    Args:
        shape: of the images; a number R stands for RGB of R x R.
        ch: channel multiplier; the published CIFAR networks have 64.
        z_dim: width of the latent.
        classes: number of classes, 0 for an unconditional generator.
    """

    def __init__(self, shape: Shape | int = 32, ch: int = 64, z_dim: int = 128, classes: int = 10):
        super().__init__()
        self.shape, self.z_dim, self.classes = Shape.of(shape), z_dim, classes
        widths = [ch * m for m in GENERATOR_WIDTHS[_side(self.shape)]]
        _, *self.start = self.shape.halved(len(widths) - 1)
        self.linear = SNLinear(z_dim, widths[0] * math.prod(self.start))
        self.blocks = nn.ModuleList(
            nn.ModuleList([GeneratorBlock(i, o, max(classes, 1))]) for i, o in pairwise(widths)
        )
        last = SNConv2d(widths[-1], self.shape.channels)
        self.output_layer = nn.Sequential(BatchNorm(widths[-1]), nn.ReLU(), last)
        self.apply(_initialize)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """(B, z_dim) and (B,) -> (B, C, H, W)."""
        h = self.linear(z).view(z.shape[0], -1, *self.start)
        for stage in self.blocks:
            for block in cast(nn.ModuleList, stage):
                h = block(h, labels)
        return torch.tanh(self.output_layer(h))


class DiscriminatorBlock(nn.Module):
    """Residual block, pre-activated except for the first, that can halve the resolution."""

    def __init__(self, inputs: int, outputs: int, first: bool, downsample: bool) -> None:
        super().__init__()
        self.first, self.downsample = first, downsample
        self.conv1 = SNConv2d(inputs, outputs)
        self.conv2 = SNConv2d(outputs, outputs)
        if inputs != outputs or downsample:
            self.conv_sc = SNConv2d(inputs, outputs, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else F.relu(x))
        h = self.conv2(F.relu(h))
        if self.downsample:
            # average pooling commutes with a 1x1 convolution, which is cheaper after pooling
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        return h + (self.conv_sc(x) if hasattr(self, "conv_sc") else x)


class Discriminator(interface.Discriminator):
    """Maps images to a score, computed from features that are rectified and summed over space.

    Args:
        shape: of the images; a number R stands for RGB of R x R.
        ch: channel multiplier.
        classes: number of classes, 0 for an unconditional discriminator.
    """

    def __init__(self, shape: Shape | int = 32, ch: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.shape, self.classes = Shape.of(shape), classes
        channels, side = self.shape.channels, _side(self.shape)
        _, *last = self.shape.halved(sum(DOWNSAMPLE[side]))
        self.positions = math.prod(last)  # summed over
        widths = [channels] + [ch * m for m in DISCRIMINATOR_WIDTHS[side]]
        self.blocks = nn.ModuleList(
            nn.ModuleList([DiscriminatorBlock(i, o, index == 0, down)])
            for index, ((i, o), down) in enumerate(
                zip(pairwise(widths), DOWNSAMPLE[side], strict=True)
            )
        )
        self.width = widths[-1]
        self.linear = SNLinear(self.width, 1)
        if classes:
            self.embed = SNEmbedding(classes, self.width)
        self.apply(_initialize)

    def lower_layers(self) -> list[nn.Module]:
        """The residual blocks."""
        return [block for stage in self.blocks for block in cast(nn.ModuleList, stage)]

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, 4 * ch), or (B, 16 * ch) at resolution 64."""
        h = images
        for stage in self.blocks:
            for block in cast(nn.ModuleList, stage):
                h = block(h)
        return F.relu(h).sum((2, 3))

    def forward(self, images: Tensor, labels: Tensor) -> DiscriminatorOutput:
        """Scores by projection on the class (Miyato and Koyama, ICLR 2018, equation 5)."""
        h = self.features(images)
        score = self.linear(h).squeeze(1)
        return DiscriminatorOutput(
            score + (self.embed(labels) * h).sum(1) if self.classes else score, h
        )


def _side(shape: Shape) -> int:
    """The key of a shape that `BigGAN.require` accepts."""
    assert shape.square is not None
    return shape.square


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0, 0.02)


@NETWORKS.register("biggan")
class BigGAN(Architecture):
    """BigGAN's generator and discriminator.

    Args:
        ch: channel multiplier; the published CIFAR networks have 64.
        z_dim: width of the latent.
    """

    resolutions: ClassVar[Sequence[int]] = tuple(GENERATOR_WIDTHS)
    any_aspect: ClassVar[bool] = True

    def __init__(self, *, ch: Positive = 64, z_dim: Positive = 128) -> None:
        self.ch, self.z_dim = ch, z_dim

    def generator(self, shape: Shape, classes: int) -> Generator:
        return Generator(shape, self.ch, self.z_dim, classes)

    def discriminator(self, shape: Shape, classes: int) -> Discriminator:
        return Discriminator(shape, self.ch, classes)
