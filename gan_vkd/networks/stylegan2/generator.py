"""The generator: mapping network, and synthesis by modulated convolutions with a skip output."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from gan_vkd.data.shape import Shape
from gan_vkd.distill.precision import at_least_float32, without_autocast
from gan_vkd.networks import interface
from gan_vkd.networks.stylegan2.layers import Linear, activate, modulated_conv
from gan_vkd.networks.stylegan2.mapping import Mapping
from gan_vkd.networks.stylegan2.resampling import binomial_filter, blur, upsample
from gan_vkd.runtime import ranks

Noise = Literal["random", "constant", "none"]


class Modulated(nn.Module):
    """Base class: the style of a layer, the weight (outputs, inputs, size, size) and the bias."""

    def __init__(self, inputs: int, outputs: int, size: int, w_dim: int) -> None:
        super().__init__()
        self.affine = Linear(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def style(self, w: Tensor) -> Tensor:
        """(B, w_dim) -> (B, inputs), in float32."""
        with without_autocast(w):
            return self.affine(w)

    def biased(self, x: Tensor) -> Tensor:
        return x + self.bias[:, None, None].to(x.dtype)


class StyledConv(Modulated):
    """Modulated 3x3 convolution, which can double the resolution; noise, bias and leaky ReLU.

    Args:
        inputs, outputs: numbers of channels.
        size: (height, width) of the output.
        w_dim: width of w.
        up: whether to double the resolution.
        clamp: of the output; None: not clamped.
    """

    noise_const: Tensor
    resample_filter: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: tuple[int, int],
        w_dim: int,
        *,
        up: bool = False,
        clamp: float | None = None,
    ) -> None:
        super().__init__(inputs, outputs, 3, w_dim)
        self.up, self.clamp = up, clamp
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(size))
        if up:
            self.register_buffer("resample_filter", binomial_filter())

    def forward(self, x: Tensor, w: Tensor, noise: Noise) -> Tensor:
        """(B, inputs, H, W), (B, w_dim) -> (B, outputs, H, W), or twice both sides."""
        grouped = x.is_cuda and not self.training  # as published; slower on a CPU
        x = modulated_conv(x, self.weight, self.style(w), up=self.up, grouped=grouped)
        if self.up:
            x = blur(x, 4 * self.resample_filter, padding=1)
        if noise != "none":
            x = x + (self._noise(x, noise) * self.noise_strength).to(x.dtype)
        return activate(self.biased(x), self.clamp)

    def _noise(self, x: Tensor, noise: Noise) -> Tensor:
        """Noise for each pixel, (B, 1, H, W) or the same for all samples, (H, W)."""
        if noise == "constant":
            return self.noise_const
        return ranks.own_rows(lambda n: torch.randn(n, 1, *x.shape[2:], device=x.device), len(x))


class ToRGB(Modulated):
    """Modulated 1x1 convolution to an image, without demodulation and activation."""

    def __init__(self, inputs: int, channels: int, w_dim: int, clamp: float | None) -> None:
        super().__init__(inputs, channels, 1, w_dim)
        self.scale, self.clamp = 1 / math.sqrt(inputs), clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, inputs, H, W), (B, w_dim) -> (B, C, H, W), in float32."""
        style = self.style(w) * self.scale
        image = self.biased(modulated_conv(x, self.weight, style, demodulate=False))
        if self.clamp is not None:
            image = image.clamp(-self.clamp, self.clamp)
        return at_least_float32(image)


class FirstBlock(nn.Module):
    """The learnt constant, one convolution and its image, of a shape (C, H, W)."""

    def __init__(self, channels: int, shape: Shape, w_dim: int, clamp: float | None) -> None:
        super().__init__()
        size = shape.height, shape.width
        self.const = nn.Parameter(torch.randn(channels, *size))
        self.conv1 = StyledConv(channels, channels, size, w_dim, clamp=clamp)
        self.torgb = ToRGB(channels, shape.channels, w_dim, clamp)

    def forward(self, ws: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Styles (B, 2, w_dim) -> features (B, channels, H, W) and image (B, C, H, W)."""
        x = self.const.expand(ws.shape[0], -1, -1, -1)  # len() would fix the batch of an export
        x = self.conv1(x, ws[:, 0], noise)
        return x, self.torgb(x, ws[:, 1])


class Block(nn.Module):
    """Doubles the resolution of features and image, which gets the shape (C, 2H, 2W)."""

    resample_filter: Tensor

    def __init__(
        self, inputs: int, outputs: int, shape: Shape, w_dim: int, clamp: float | None
    ) -> None:
        super().__init__()
        size = shape.height, shape.width
        self.conv0 = StyledConv(inputs, outputs, size, w_dim, up=True, clamp=clamp)
        self.conv1 = StyledConv(outputs, outputs, size, w_dim, clamp=clamp)
        self.torgb = ToRGB(outputs, shape.channels, w_dim, clamp)
        self.register_buffer("resample_filter", binomial_filter())

    def forward(self, x: Tensor, image: Tensor, ws: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """(B, I, H, W), (B, C, H, W), styles (B, 3, w_dim) -> (B, O, 2H, 2W), (B, C, 2H, 2W)."""
        x = self.conv0(x, ws[:, 0], noise)
        x = self.conv1(x, ws[:, 1], noise)
        return x, upsample(image, self.resample_filter) + self.torgb(x, ws[:, 2])


class Synthesis(nn.Module):
    """Maps a style for each layer to images; has a block b4, b8, ..., bR for each resolution.

    The image of a block has the style of the next block's first convolution, so there are two
    styles for each block.

    Args:
        widths: channels by block, from 4 on (`widths_of`).
        shape: of the images; each block before the last one has half of the next one's sides.
        w_dim: width of w.
        clamp: of the layers' outputs; None: not clamped.
    """

    def __init__(
        self, widths: dict[int, int], shape: Shape, w_dim: int, clamp: float | None = None
    ) -> None:
        super().__init__()
        self.styles = 2 * len(widths)
        first, *others = [shape.halved(count) for count in reversed(range(len(widths)))]
        self.names = [f"b{resolution}" for resolution in widths][1:]
        self.b4 = FirstBlock(widths[4], first, w_dim, clamp)
        for name, (inputs, outputs), size in zip(
            self.names, pairwise(widths.values()), others, strict=True
        ):
            self.add_module(name, Block(inputs, outputs, size, w_dim, clamp))

    def forward(self, ws: Tensor, noise: Noise = "constant") -> Tensor:
        """(B, styles, w_dim) -> images (B, C, H, W), not bounded."""
        x, image = self.b4(ws[:, :2], noise)
        for index, name in enumerate(self.names, 1):
            styles = ws[:, 2 * index - 1 : 2 * index + 2]
            x, image = self.get_submodule(name)(x, image, styles, noise)
        return image


class Generator(interface.Generator):
    """Maps latents and labels to images, whose range is [-1, 1] but not bounded.

    In training mode styles are mixed, the noise is random and the average of w is updated. In eval
    mode there is no mixing, w is truncated by `truncate` and the noise is that of `noise`.

    Args:
        widths: channels by block, from 4 on (`widths_of`).
        classes: number of classes, 0 for an unconditional generator.
        shape: of the images; None: RGB, R x R.
        z_dim, w_dim: widths of the latent and of the intermediate latent.
        mapping_layers: number of layers of the mapping network.
        style_mixing: share of the images in training that have the styles of two latents.
        clamp: of the layers' outputs; None: not clamped.
    """

    def __init__(
        self,
        widths: dict[int, int],
        classes: int = 0,
        *,
        shape: Shape | None = None,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        style_mixing: float = 0.9,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape or Shape.of(max(widths))
        self.z_dim, self.classes = z_dim, classes
        self.style_mixing, self.psi = style_mixing, 1.0
        self.noise: Noise = "constant"
        self.mapping = Mapping(z_dim, classes, w_dim, mapping_layers)
        self.synthesis = Synthesis(widths, self.shape, w_dim, clamp)

    def truncate(self, psi: float) -> None:
        self.psi = psi

    @contextmanager
    def drawn_noise(self) -> Iterator[None]:
        before, self.noise = self.noise, "random"
        try:
            yield
        finally:
            self.noise = before

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """(B, z_dim) and (B,) -> (B, C, H, W)."""
        return self.styled(z, labels)[0]

    def styled(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, z_dim) and (B,) -> images (B, C, H, W) and styles (B, L, w_dim) of L layers."""
        w = self.mapping(z, labels)
        if self.training:
            self.mapping.track(w)
            styles = self._mixed(w, labels)
            return self.synthesis(styles, "random"), styles
        w = self.mapping.w_avg.lerp(w, self.psi)
        styles = w[:, None].expand(-1, self.synthesis.styles, -1)
        return self.synthesis(styles, self.noise), styles

    def _mixed(self, w: Tensor, labels: Tensor) -> Tensor:
        """(B, w_dim) -> styles (B, styles, w_dim), some of them with another latent's last ones.

        The first style with the other latent is drawn for each image (Karras et al., CVPR 2019,
        section 3.1); the published code draws one for each batch.
        """
        styles, count, device = self.synthesis.styles, len(w), w.device
        if not self.style_mixing:
            return w[:, None].expand(-1, styles, -1)
        z = ranks.own_rows(lambda n: self.latents(n, device), count)
        start = ranks.own_rows(lambda n: torch.randint(1, styles, (n, 1), device=device), count)
        mixed = ranks.own_rows(lambda n: torch.rand(n, 1, device=device), count) < self.style_mixing
        other = mixed & (torch.arange(styles, device=device) >= start)
        return torch.where(other[:, :, None], self.mapping(z, labels)[:, None], w[:, None])
