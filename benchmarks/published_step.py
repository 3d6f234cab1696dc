"""The published trainer's iteration, the baseline of benchmarks/gpu.py.

A transcription of the BigGAN for CIFAR of DiffAugment (Zhao et al., NeurIPS 2020;
github.com/mit-han-lab/data-efficient-gans, DiffAugment-biggan-cifar) at 32 x 32: the same
operations in the same order, float32, NCHW, one power iteration per layer and forward, and the
losses read by the host in each iteration. Parameters and buffers have the names of
`gan_vkd.networks.biggan`, so state dicts can be exchanged. Data loading is left out.
"""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_vkd.data.batches import Batch

BATCH_NORM_MOMENTUM, EPS, BETAS, RATE = 0.1, 1e-5, (0.0, 0.999), 2e-4


class Spectral(nn.Module):
    """A layer whose weight is divided by its largest singular value."""

    weight: nn.Parameter
    u0: Tensor
    sv0: Tensor

    def track(self) -> None:
        self.register_buffer("u0", torch.randn(1, len(self.weight)))
        self.register_buffer("sv0", torch.ones(1))
        nn.init.normal_(self.weight, 0, 0.02)

    def normalized(self) -> Tensor:
        matrix = self.weight.view(self.weight.size(0), -1)
        with torch.no_grad():
            v = F.normalize(torch.matmul(self.u0, matrix), eps=1e-8)
            u = F.normalize(torch.matmul(v, matrix.t()), eps=1e-8)
            if self.training:
                self.u0[:] = u
        sigma = torch.squeeze(torch.matmul(torch.matmul(v, matrix.t()), u.t()))
        if self.training:
            with torch.no_grad():
                self.sv0[:] = sigma
        return self.weight / sigma


class Conv(Spectral, nn.Conv2d):
    def __init__(self, inputs: int, outputs: int, size: int = 3) -> None:
        nn.Conv2d.__init__(self, inputs, outputs, size, padding=size // 2)
        self.track()

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalized(), self.bias, self.stride, self.padding)


class Linear(Spectral, nn.Linear):
    def __init__(self, inputs: int, outputs: int) -> None:
        nn.Linear.__init__(self, inputs, outputs)
        self.track()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalized(), self.bias)


class Embedding(Spectral, nn.Embedding):
    def __init__(self, rows: int, width: int) -> None:
        nn.Embedding.__init__(self, rows, width)
        self.track()

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.normalized())


class BatchNorm(nn.Module):
    """With a gain and a bias per channel, or per channel and class."""

    def __init__(self, channels: int, classes: int | None = None) -> None:
        super().__init__()
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))
        if classes is None:
            self.gain = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
        else:
            self.gain, self.bias = (nn.Embedding(classes, channels) for _ in range(2))
            for table in (self.gain, self.bias):
                nn.init.normal_(table.weight, 0, 0.02)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        known = self.stored_mean, self.stored_var
        how = self.training, BATCH_NORM_MOMENTUM, EPS
        if labels is None:
            return F.batch_norm(x, *known, self.gain, self.bias, *how)
        gain = (1 + self.gain(labels)).view(len(labels), -1, 1, 1)
        bias = self.bias(labels).view(len(labels), -1, 1, 1)
        return F.batch_norm(x, *known, None, None, *how) * gain + bias


class GeneratorBlock(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(width, width), Conv(width, width)
        self.conv_sc = Conv(width, width, 1)
        self.bn1, self.bn2 = BatchNorm(width, classes), BatchNorm(width, classes)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = F.relu(self.bn1(x, labels))
        h, x = F.interpolate(h, scale_factor=2), F.interpolate(x, scale_factor=2)
        h = self.conv1(h)
        h = self.conv2(F.relu(self.bn2(h, labels)))
        return h + self.conv_sc(x)


class Generator(nn.Module):
    """Latents (B, z) and labels (B,) -> images (B, 3, 32, 32) in [-1, 1]."""

    def __init__(self, ch: int = 64, z_dim: int = 128, classes: int = 10) -> None:
        super().__init__()
        self.z_dim, width = z_dim, 4 * ch
        self.linear = Linear(z_dim, width * 16)
        self.blocks = nn.ModuleList(
            nn.ModuleList([GeneratorBlock(width, classes)]) for _ in range(3)
        )
        self.output_layer = nn.Sequential(BatchNorm(width), nn.ReLU(), Conv(width, 3))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        h = self.linear(z)
        h = h.view(h.size(0), -1, 4, 4)
        for (block,) in self.blocks:
            h = block(h, labels)
        return torch.tanh(self.output_layer(h))


class DiscriminatorBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, first: bool, downsample: bool) -> None:
        super().__init__()
        self.first, self.downsample = first, downsample
        self.conv1, self.conv2 = Conv(inputs, outputs), Conv(outputs, outputs)
        if inputs != outputs or downsample:
            self.conv_sc = Conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x if self.first else F.relu(x))
        h = self.conv2(F.relu(h))
        if self.downsample:
            h = F.avg_pool2d(h, 2)
        return h + self.shortcut(x)

    def shortcut(self, x: Tensor) -> Tensor:
        if not self.downsample:
            return x
        return self.conv_sc(F.avg_pool2d(x, 2)) if self.first else F.avg_pool2d(self.conv_sc(x), 2)


class Discriminator(nn.Module):
    """Images (B, 3, 32, 32) in [-1, 1] and labels (B,) -> scores (B, 1)."""

    def __init__(self, ch: int = 64, classes: int = 10) -> None:
        super().__init__()
        widths, halved = [3] + [4 * ch] * 4, [True, True, False, False]
        self.blocks = nn.ModuleList(
            nn.ModuleList([DiscriminatorBlock(i, o, index == 0, halved[index])])
            for index, (i, o) in enumerate(pairwise(widths))
        )
        self.linear, self.embed = Linear(4 * ch, 1), Embedding(classes, 4 * ch)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        h = images
        for (block,) in self.blocks:
            h = block(h)
        h = torch.sum(F.relu(h), [2, 3])
        return self.linear(h) + torch.sum(self.embed(labels) * h, 1, keepdim=True)


def translation(x: Tensor) -> Tensor:
    """Shifts by up to an eighth of the image, by an index of every pixel."""
    (b, _, h, w), device = x.shape, x.device
    down = torch.randint(-(h // 8), h // 8 + 1, (b, 1, 1), device=device)
    right = torch.randint(-(w // 8), w // 8 + 1, (b, 1, 1), device=device)
    image, row, column = _every_pixel(b, h, w, device)
    row = torch.clamp(row + down + 1, 0, h + 1)
    column = torch.clamp(column + right + 1, 0, w + 1)
    padded = F.pad(x, [1, 1, 1, 1]).permute(0, 2, 3, 1).contiguous()
    return padded[image, row, column].permute(0, 3, 1, 2)


def cutout(x: Tensor) -> Tensor:
    """Zeros a square of half the image's side, by a mask that is written pixel by pixel."""
    (b, _, h, w), device = x.shape, x.device
    rows, columns = h // 2, w // 2
    top = torch.randint(0, h + (1 - rows % 2), (b, 1, 1), device=device)
    left = torch.randint(0, w + (1 - columns % 2), (b, 1, 1), device=device)
    image, row, column = _every_pixel(b, rows, columns, device)
    row = torch.clamp(row + top - rows // 2, 0, h - 1)
    column = torch.clamp(column + left - columns // 2, 0, w - 1)
    mask = torch.ones(b, h, w, dtype=x.dtype, device=device)
    mask[image, row, column] = 0
    return x * mask.unsqueeze(1)


def _every_pixel(*shape: int | torch.device) -> tuple[Tensor, ...]:
    *sizes, device = shape
    return torch.meshgrid(*(torch.arange(n, device=device) for n in sizes), indexing="ij")


def augment(x: Tensor) -> Tensor:
    """DiffAugment's policy "translation,cutout" on fake and real images together."""
    return cutout(translation(x)).contiguous()


class Published(NamedTuple):
    """The networks and optimisers of the published trainer, and its two steps.

    Build it with `build`. Both steps take data from the device and return their losses there.
    """

    generator: Generator
    discriminator: Discriminator
    average: Generator
    g_optimizer: torch.optim.Adam
    d_optimizer: torch.optim.Adam

    def discriminator_step(self, batch: Batch, fake_labels: Tensor) -> tuple[Tensor, Tensor]:
        """Updates the discriminator by the hinge loss on B fake and B real images."""
        self.d_optimizer.zero_grad()
        with torch.no_grad():
            fake = self.generator(self._latents(fake_labels), fake_labels)
        images = augment(torch.cat([fake, batch.images], 0))
        scores = self.discriminator(images, torch.cat([fake_labels, batch.labels], 0))
        of_fake, of_real = torch.split(scores, [len(fake), len(batch.images)])
        losses = torch.mean(F.relu(1.0 - of_real)), torch.mean(F.relu(1.0 + of_fake))
        (losses[0] + losses[1]).backward()
        self.d_optimizer.step()
        return losses

    def generator_step(self, labels: Tensor, iteration: int) -> Tensor:
        """Updates the generator and its moving average."""
        for network, trained in ((self.discriminator, False), (self.generator, True)):
            for parameter in network.parameters():
                parameter.requires_grad_(trained)
        self.g_optimizer.zero_grad()
        images = self.generator(self._latents(labels), labels)
        loss = -torch.mean(self.discriminator(augment(images), labels))
        loss.backward()
        self.g_optimizer.step()
        decay = 0.9999 if iteration >= 1000 else 0.0
        with torch.no_grad():
            averaged, current = self.average.state_dict(), self.generator.state_dict()
            for key, value in averaged.items():
                value.copy_(value * decay + current[key] * (1 - decay))
        for parameter in self.discriminator.parameters():
            parameter.requires_grad_(True)
        return loss

    def iteration(
        self,
        number: int,
        batches: Callable[[int], Batch],
        labels: Callable[[int], Tensor],
        size: int,
        d_steps: int = 4,
    ) -> None:
        """d_steps discriminator updates and one of the generator; the losses go to the host."""
        for step in range(number * d_steps, (number + 1) * d_steps):
            losses = self.discriminator_step(batches(step), labels(size))
        losses = (*losses, self.generator_step(labels(size), number))
        for loss in losses:
            loss.item()

    def _latents(self, labels: Tensor) -> Tensor:
        return torch.randn(len(labels), self.generator.z_dim, device=labels.device)


def build(ch: int, z_dim: int, classes: int, device: str) -> Published:
    """Returns the published networks with random weights on the device, and their optimisers."""
    generator, discriminator = Generator(ch, z_dim, classes), Discriminator(ch, classes)
    generator, discriminator = generator.to(device), discriminator.to(device)
    optimizers = [
        torch.optim.Adam(network.parameters(), RATE, BETAS)
        for network in (generator, discriminator)
    ]
    average = copy.deepcopy(generator).requires_grad_(False)
    return Published(generator, discriminator, average, *optimizers)
