"""The residual block of R3GAN: an inverted bottleneck with a grouped convolution, no normalisation.

Weights are normally distributed with a standard deviation of gain / sqrt(inputs). The gain of the
leaky ReLU is part of that; nothing is scaled in a forward.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2  # of the leaky ReLU
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # keeps the mean square of its input


def initialize(weight: Tensor, gain: float = 1.0) -> None:
    """Draws a weight (O, ...) whose rows have as many inputs as elements."""
    nn.init.normal_(weight, 0, gain / math.sqrt(weight[0].numel()))


class Conv(nn.Conv2d):
    """A convolution without a bias that keeps the sides, initialised with a gain."""

    def __init__(
        self, inputs: int, outputs: int, size: int = 1, *, groups: int = 1, gain: float = 1.0
    ) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2, groups=groups, bias=False)
        initialize(self.weight, gain)


class Activation(nn.Module):
    """Adds a bias to each channel and applies a leaky ReLU, without a gain."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape and type."""
        return F.leaky_relu(x + self.bias[:, None, None].to(x.dtype), SLOPE)


class ResidualBlock(nn.Module):
    """x + conv3(act2(conv2(act1(conv1(x))))): 1x1, grouped 3x3, 1x1.

    Initialised as in Fixup (Zhang, Dauphin and Ma, ICLR 2019): the last layer with zeros, the first
    two with a gain that falls with the number of blocks to the power of -1/4, that is
    -1 / (2m - 2) for m = 3 layers in a branch.

    Args:
        channels: number of channels.
        expansion: the branch is this many times as wide.
        group_width: channels in a group of the 3x3 convolution; must divide channels * expansion.
        depth: number of residual blocks in the network.
    """

    def __init__(self, channels: int, expansion: int, group_width: int, depth: int) -> None:
        super().__init__()
        inner, gain = channels * expansion, GAIN * depth**-0.25
        self.conv1 = Conv(channels, inner, gain=gain)
        self.conv2 = Conv(inner, inner, 3, groups=inner // group_width, gain=gain)
        self.conv3 = Conv(inner, channels, gain=0.0)
        self.act1, self.act2 = Activation(inner), Activation(inner)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape, in the type of the convolutions."""
        branch = self.conv3(self.act2(self.conv2(self.act1(self.conv1(x)))))
        return x.to(branch.dtype) + branch
