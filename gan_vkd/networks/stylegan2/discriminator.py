"""The discriminator: residual blocks, minibatch standard deviation, projection on the class."""

import math

import torch
from torch import Tensor, nn

from gan_vkd.data.shape import Shape
from gan_vkd.distill.precision import at_least_float32, without_autocast
from gan_vkd.networks import interface
from gan_vkd.networks.interface import DiscriminatorOutput
from gan_vkd.networks.stylegan2.layers import Conv, Linear, activate
from gan_vkd.networks.stylegan2.mapping import Mapping

CLASS_LAYERS = 8  # of the mapping of the class
HALF = math.sqrt(0.5)  # keeps the variance of a sum of two


def minibatch_deviation(x: Tensor, group: int) -> Tensor:
    """Mean standard deviation of the features within groups of `group` consecutive rows.

    The published code spreads each group over the batch. Consecutive rows do not mix real with fake
    images, or the rows of several ranks, wherever the number of each is a multiple of the group.

    Args:
        x: (B, C, H, W).
        group: size of a group; the last one has the remaining rows.

    Returns:
        (B, 1, 1, 1), in float32 or better.
    """
    whole = len(x) - len(x) % group
    parts = (part for part in at_least_float32(x).tensor_split([whole]) if len(part))
    found = []
    for part in parts:
        size = min(group, len(part))
        variance = part.unflatten(0, (-1, size)).var(1, correction=0)
        found.append((variance + 1e-8).sqrt().mean((1, 2, 3)).repeat_interleave(size))
    return torch.cat(found)[:, None, None, None]


class Block(nn.Module):
    """Halves the resolution: two convolutions, beside a shortcut if it is residual.

    Args:
        channels, outputs: number of channels before and after.
        images: number of channels of the images that are the input; 0: the input is features.
        residual: whether there is a shortcut.
        clamp: of the layers' outputs; None: not clamped.
    """

    def __init__(
        self, channels: int, outputs: int, *, images: int, residual: bool, clamp: float | None
    ) -> None:
        super().__init__()
        self.fromrgb = Conv(images, channels, 1, clamp=clamp) if images else None
        self.conv0 = Conv(channels, channels, 3, clamp=clamp)
        self.conv1 = Conv(channels, outputs, 3, down=True, clamp=clamp)
        self.skip = Conv(channels, outputs, 1, down=True, linear=True) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W), or images (B, C, H, W) -> (B, outputs, H / 2, W / 2)."""
        if self.fromrgb is not None:
            x = self.fromrgb(x)
        if self.skip is None:
            return self.conv1(self.conv0(x))
        return self.skip(x, HALF) + self.conv1(self.conv0(x), HALF)


class LastBlock(nn.Module):
    """From the smallest map to features, and `out`, the last layer, in float32.

    Args:
        channels: number of channels, and width of the features.
        positions: number of positions of the map, 16 for 4 x 4.
        outputs: of the last layer.
        clamp: of the convolution's output; None: not clamped.
    """

    def __init__(self, channels: int, positions: int, outputs: int, clamp: float | None) -> None:
        super().__init__()
        self.conv = Conv(channels + 1, channels, 3, clamp=clamp)
        self.fc = Linear(channels * positions, channels)
        self.out = Linear(channels, outputs)

    def forward(self, x: Tensor, group: int) -> Tensor:
        """(B, channels, h, w) -> (B, channels)."""
        with without_autocast(x):
            x = at_least_float32(x)
            deviation = minibatch_deviation(x, group).expand(-1, 1, *x.shape[2:])
            x = self.conv(torch.cat([x, deviation], 1))
            return activate(self.fc(x.flatten(1)))


class Discriminator(interface.Discriminator):
    """Maps images to a score; has a block bR, ..., b8, b4 for each resolution.

    Args:
        widths: channels by block, from 4 on (`widths_of`).
        classes: number of classes, 0 for an unconditional discriminator.
        shape: of the images; None: RGB, R x R.
        group: number of images whose standard deviation is a feature of each of them.
        residual: whether the blocks have shortcuts.
        clamp: of the layers' outputs; None: not clamped.
    """

    def __init__(
        self,
        widths: dict[int, int],
        classes: int = 0,
        *,
        shape: Shape | None = None,
        group: int = 4,
        residual: bool = True,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape or Shape.of(max(widths))
        self.classes, self.group = classes, group
        self.width = widths[4]
        self.names = [f"b{resolution}" for resolution in widths if resolution > 4][::-1]
        for resolution in sorted(widths, reverse=True)[:-1]:
            block = Block(
                widths[resolution],
                widths[resolution // 2],
                images=self.shape.channels if resolution == max(widths) else 0,
                residual=residual,
                clamp=clamp,
            )
            self.add_module(f"b{resolution}", block)
        _, height, width = self.shape.halved(len(widths) - 1)
        self.b4 = LastBlock(self.width, height * width, self.width if classes else 1, clamp)
        if classes:
            self.mapping = Mapping(0, classes, self.width, CLASS_LAYERS)

    def lower_layers(self) -> list[nn.Module]:
        """The convolutions of all blocks but the last, counted as by ADA's --freezed."""
        blocks = [self.get_submodule(name) for name in self.names]
        return [layer for block in blocks for layer in block.children()]

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, width), the input of the last layer."""
        h = images
        for name in self.names:
            h = self.get_submodule(name)(h)
        return self.b4(h, self.group)

    def forward(self, images: Tensor, labels: Tensor) -> DiscriminatorOutput:
        """Scores by projection on the mapped class (Karras et al., NeurIPS 2020, appendix D)."""
        features = self.features(images)
        with without_autocast(features):
            score = self.b4.out(features)
            if not self.classes:
                return DiscriminatorOutput(score.squeeze(1), features)
            mapped = self.mapping(None, labels)
            return DiscriminatorOutput((score * mapped).sum(1) / math.sqrt(self.width), features)
