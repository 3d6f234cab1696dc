"""RedNet: a ResNet whose 3x3 convolutions are involutions (Li et al., CVPR 2021).

Parameters have the names of the published code, without the prefix of its backbone.
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

REDUCTION, GROUP = 4, 16  # of the kernels' channels; channels that share a kernel
BLOCKS = {
    26: (1, 2, 4, 1),
    38: (2, 3, 5, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def conv_norm(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the sides, or divides them by the stride, batch norm and ReLU."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    layers = {"conv": conv, "bn": nn.BatchNorm2d(outputs), "activate": nn.ReLU(inplace=True)}
    return nn.Sequential(OrderedDict(layers))


class Involution(nn.Module):
    """A weighted sum over a neighbourhood, whose weights are computed at each position.

        y[c, i] = sum_k w[g(c), k, i] x[c, i + k];   w = W1 relu(bn(W0 x))

    Groups of 16 channels share their weights (Li et al., CVPR 2021, equations 4 to 6).

    Args:
        channels: a multiple of 16.
        size: k, side of the neighbourhood, odd.
        stride: the weights are computed from means over stride x stride positions.
    """

    def __init__(self, channels: int, size: int, stride: int = 1) -> None:
        super().__init__()
        self.size, self.stride, self.groups = size, stride, channels // GROUP
        self.conv1 = conv_norm(channels, channels // REDUCTION, 1)
        weights = nn.Conv2d(channels // REDUCTION, size**2 * self.groups, 1)
        self.conv2 = nn.Sequential(OrderedDict(conv=weights))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels, H / stride, W / stride)."""
        means = F.avg_pool2d(x, self.stride) if self.stride > 1 else x
        weights = self.conv2(self.conv1(means)).unflatten(1, (self.groups, 1, self.size**2))
        height, width = weights.shape[-2:]
        padded = F.pad(x, [self.size // 2] * 4).unflatten(1, (self.groups, GROUP))
        y = weights.new_zeros(())
        for k in range(self.size**2):  # no copy of the neighbourhoods is kept
            down, right = divmod(k, self.size)
            rows = slice(down, down + self.stride * (height - 1) + 1, self.stride)
            columns = slice(right, right + self.stride * (width - 1) + 1, self.stride)
            y = y + weights[:, :, :, k] * padded[..., rows, columns]
        return y.flatten(1, 2)


class Bottleneck(nn.Module):
    """ResNet's bottleneck with a 7x7 involution instead of the 3x3 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = outputs // 4
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = Involution(width, 7, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + self.downsample(x))


def stem() -> nn.Sequential:
    """RedNet's stem: normalised images (B, 3, H, W) -> (B, 64, H / 2, W / 2)."""
    involution, norm = Involution(32, 3), nn.BatchNorm2d(32)
    relu = nn.ReLU(inplace=True)
    return nn.Sequential(conv_norm(3, 32, 3, 2), involution, norm, relu, conv_norm(32, 64, 3))


class RedNet(nn.Module):
    """RedNet with a classifier.

    Args:
        depth: 26, 38, 50, 101 or 152.
        classes: number of classes.
    """

    def __init__(self, depth: int = 50, classes: int = 1000) -> None:
        super().__init__()
        self.stem = stem()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for index, count in enumerate(BLOCKS[depth]):
            outputs, stride = 256 * 2**index, 1 if index == 0 else 2
            blocks = [Bottleneck(inputs, outputs, stride)]
            blocks += [Bottleneck(outputs, outputs, 1) for _ in range(count - 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            inputs = outputs
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W), multiples of 32 -> logits (B, classes)."""
        x = self.maxpool(self.stem(x))
        for index in range(4):
            x = self.get_submodule(f"layer{index + 1}")(x)
        return self.classifier(self.pool(x))
