"""BigGAN for 32x32 and 64x64 images (Brock, Donahue and Simonyan, ICLR 2019; appendix B).

The CIFAR variant of DiffAugment (Zhao et al., NeurIPS 2020): no attention, no hierarchical latent,
class-conditional batch norm, projection discriminator, spectral norm everywhere. Parameter names
and shapes are those of its published checkpoints, so that they load as they are.
"""

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_vkd.distill.precision import without_autocast
from gan_vkd.runtime import ranks

# resolution -> multipliers of ch: of the generator's input and blocks, the discriminator's blocks
GENERATOR_WIDTHS = {32: [4, 4, 4, 4], 64: [16, 16, 8, 4, 2]}
DISCRIMINATOR_WIDTHS = {32: [4, 4, 4, 4], 64: [1, 2, 4, 8, 16]}
DOWNSAMPLE = {32: [True, True, False, False], 64: [True, True, True, True, False]}


class SpectralNorm:
    """Divides a layer's weight by its largest singular value (Miyato et al., ICLR 2018).

    One power iteration a forward; the left singular vector is kept in training mode only. The
    singular value is differentiated, the vectors are not.
    """

    weight: Tensor
    training: bool
    u0: Tensor
    sv0: Tensor

    def _track(self: "nn.Module", rows: int) -> None:  # type: ignore
        self.register_buffer("u0", torch.randn(1, rows))
        self.register_buffer("sv0", torch.ones(1))

    def normalized_weight(self) -> Tensor:
        with without_autocast(self.weight):
            return self._normalized_weight()

    def _normalized_weight(self) -> Tensor:
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(self.u0 @ matrix, eps=1e-8)
            u = F.normalize(v @ matrix.T, eps=1e-8)
        sigma = (v @ matrix.T @ u.T).squeeze()
        if self.training:
            with torch.no_grad():
                self.u0.copy_(u)
                self.sv0.copy_(sigma)
        return self.weight / sigma


class SNConv2d(SpectralNorm, nn.Conv2d):
    def __init__(self, inputs: int, outputs: int, kernel_size: int = 3) -> None:
        super().__init__(inputs, outputs, kernel_size, padding=kernel_size // 2)
        self._track(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalized_weight(), self.bias, padding=self.padding)


class SNLinear(SpectralNorm, nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self._track(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalized_weight(), self.bias)


class SNEmbedding(SpectralNorm, nn.Embedding):
    def __init__(self, rows: int, width: int) -> None:
        super().__init__(rows, width)
        self._track(rows)

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.normalized_weight())


def standardize(x: Tensor, mean: Tensor, var: Tensor, training: bool) -> Tensor:
    """Batch norm (B, C, H, W) without gain and bias, over the samples of all ranks."""
    if not training or ranks.world() == 1:
        return F.batch_norm(x, mean, var, training=training)
    dims, count = (0, 2, 3), x.numel() // x.shape[1] * ranks.world()
    batch_mean = ranks.total(x.sum(dims)) / count
    centred = x - batch_mean[:, None, None]
    batch_var = ranks.total(centred.square().sum(dims)) / count
    with torch.no_grad():
        mean.lerp_(batch_mean, 0.1)
        var.lerp_(batch_var * count / (count - 1), 0.1)
    return centred * (batch_var + 1e-5).rsqrt()[:, None, None]


class Standardization(nn.Module):
    """What both batch norms do before gain and bias, with their running statistics (C,).

    of_batch: in eval mode too, by the statistics of the batch at hand, on this rank alone; the
    running ones are then neither used nor updated.
    """

    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.of_batch = False
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def standardize(self, x: Tensor) -> Tensor:
        if self.of_batch and not self.training:
            return F.batch_norm(x, None, None, training=True)
        return standardize(x, self.stored_mean, self.stored_var, self.training)


class BatchNorm(Standardization):
    """Batch norm with its own gain and bias."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.standardize(x)
        return torch.addcmul(self.bias[:, None, None], x, self.gain[:, None, None])


class ClassBatchNorm(Standardization):
    """Batch norm with gain and bias by class; one class is the unconditional case."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels)
        self.gain = nn.Embedding(classes, channels)
        self.bias = nn.Embedding(classes, channels)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        x = self.standardize(x)
        gain, bias = self.gain(labels), self.bias(labels)
        return torch.addcmul(bias[:, :, None, None], x, 1 + gain[:, :, None, None])


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
        # nearest upsampling commutes with a 1x1 convolution: convolve at the small resolution
        return h + F.interpolate(self.conv_sc(x), scale_factor=2.0)


class Generator(nn.Module):
    """Latents and labels to images in [-1, 1].

    Args:
        resolution: 32 or 64.
        ch: channel multiplier; the published CIFAR networks have 64.
        z_dim: width of the latent.
        classes: number of classes, 0 for an unconditional generator.
    """

    def __init__(self, resolution: int = 32, ch: int = 64, z_dim: int = 128, classes: int = 10):
        super().__init__()
        self.resolution, self.z_dim, self.classes = resolution, z_dim, classes
        widths = [ch * m for m in GENERATOR_WIDTHS[resolution]]
        self.linear = SNLinear(z_dim, widths[0] * 16)
        self.blocks = nn.ModuleList(
            nn.ModuleList([GeneratorBlock(i, o, max(classes, 1))]) for i, o in pairwise(widths)
        )
        self.output_layer = nn.Sequential(BatchNorm(widths[-1]), nn.ReLU(), SNConv2d(widths[-1], 3))
        self.apply(_initialize)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """(B, z_dim) and (B,) -> (B, 3, resolution, resolution)."""
        h = self.linear(z).view(z.shape[0], -1, 4, 4)
        for stage in self.blocks:
            for block in cast(nn.ModuleList, stage):
                h = block(h, labels)
        return torch.tanh(self.output_layer(h))

    def batch_norms(self) -> list[Standardization]:
        return [module for module in self.modules() if isinstance(module, Standardization)]


class DiscriminatorBlock(nn.Module):
    """Residual block, pre-activated except for the first, halving the resolution where asked."""

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
            # average pooling commutes with a 1x1 convolution: pool first, it is cheaper
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        return h + (self.conv_sc(x) if hasattr(self, "conv_sc") else x)


class RectifiedSum(nn.Module):
    """Maps (B, d, H, W) -> (B, d): rectified, summed over space."""

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(maps).sum((2, 3))


class Discriminator(nn.Module):
    """Images to a score, taken from the features that `pool` puts out.

    Args:
        resolution: 32 or 64.
        ch: channel multiplier.
        classes: number of classes, 0 for an unconditional discriminator.
    """

    def __init__(self, resolution: int = 32, ch: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.resolution, self.classes = resolution, classes
        self.positions = (resolution >> sum(DOWNSAMPLE[resolution])) ** 2  # that features sum over
        widths = [3] + [ch * m for m in DISCRIMINATOR_WIDTHS[resolution]]
        self.blocks = nn.ModuleList(
            nn.ModuleList([DiscriminatorBlock(i, o, index == 0, down)])
            for index, ((i, o), down) in enumerate(
                zip(pairwise(widths), DOWNSAMPLE[resolution], strict=True)
            )
        )
        self.pool = RectifiedSum()
        self.linear = SNLinear(widths[-1], 1)
        if classes:
            self.embed = SNEmbedding(classes, widths[-1])
        self.apply(_initialize)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 4 * ch), at 64 pixels (B, 16 * ch), summed over space."""
        h = images
        for stage in self.blocks:
            for block in cast(nn.ModuleList, stage):
                h = block(h)
        return self.pool(h)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Score (B,), by projection on the class (Miyato and Koyama, ICLR 2018, equation 5)."""
        h = self.features(images)
        score = self.linear(h).squeeze(1)
        return score + (self.embed(labels) * h).sum(1) if self.classes else score


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, 0, 0.02)
