"""Layers with an equalised learning rate, and the modulated convolution.

Equalised learning rate (Karras et al., ICLR 2018, section 4.1): weights are stored with unit
variance and scaled by 1 / sqrt(inputs) in each forward, so that Adam's steps are of the same
relative size in all layers.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_vkd.distill.precision import at_least_float32, without_autocast
from gan_vkd.networks.stylegan2.resampling import binomial_filter, blur, downsample

SLOPE, GAIN = 0.2, math.sqrt(2)  # of the leaky ReLU; the gain keeps the mean square of its input


def activate(x: Tensor, clamp: float | None = None) -> Tensor:
    """Leaky ReLU with gain, clamped to [-clamp, clamp] where a clamp is given."""
    x = F.leaky_relu(x, SLOPE) * GAIN
    return x if clamp is None else x.clamp(-clamp, clamp)


def normalize(x: Tensor) -> Tensor:
    """(B, d) -> (B, d) with a mean square of 1 in each row."""
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Linear(nn.Module):
    """A linear layer with an equalised learning rate.

    Args:
        inputs, outputs: widths.
        bias: initial value of the bias.
        rate: multiplier of the learning rate of weights and bias.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.scale, self.rate = rate / math.sqrt(inputs), rate
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) -> (B, outputs)."""
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)

    def of_class(self, labels: Tensor) -> Tensor:
        """Labels (B,) -> the outputs (B, outputs) for inputs that are 1 at the label and else 0."""
        return F.embedding(labels, self.weight.T) * self.scale + self.bias * self.rate


class Conv(nn.Module):
    """A convolution with an equalised learning rate, which can halve the resolution.

    Args:
        inputs, outputs: numbers of channels.
        size: of the kernel, 1 or 3.
        down: whether to filter the input and to compute every second pixel only.
        linear: without bias and activation.
        clamp: largest magnitude of the output, before the gain of `forward`; None: not clamped.
    """

    resample_filter: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        *,
        down: bool = False,
        linear: bool = False,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.size, self.down, self.clamp = size, down, clamp
        self.scale = 1 / math.sqrt(inputs * size**2)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = None if linear else nn.Parameter(torch.zeros(outputs))
        if down:
            self.register_buffer("resample_filter", binomial_filter())

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W), or half of both sides; multiplied by the gain.

        The gains are applied to the weights, which is cheaper: a leaky ReLU commutes with them.
        """
        if self.bias is None:
            bias, weight = None, self.weight * (self.scale * gain)
        else:
            bias, weight = self.bias * (GAIN * gain), self.weight * (self.scale * GAIN * gain)
        if self.down and self.size == 1:
            x = F.conv2d(downsample(x, self.resample_filter), weight, bias)
        elif self.down:
            x = F.conv2d(blur(x, self.resample_filter, padding=2), weight, bias, stride=2)
        else:
            x = F.conv2d(x, weight, bias, padding=self.size // 2)
        if bias is not None:
            x = F.leaky_relu(x, SLOPE)
        return x if self.clamp is None else x.clamp(-self.clamp * gain, self.clamp * gain)


def modulated_conv(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    *,
    demodulate: bool = True,
    up: bool = False,
    grouped: bool = False,
) -> Tensor:
    """Convolution with weights that are scaled for each sample (Karras et al., CVPR 2020, eq. 1-3).

        w'_oik = s_i w_oik;   w''_oik = w'_oik / sqrt(sum_ik w'_oik^2 + 1e-8)

    The scales are computed in float32 or better.

    Args:
        x: (B, I, H, W).
        weight: (O, I, k, k) with an odd k; zero padding keeps the sides.
        style: s, (B, I).
        demodulate: whether to divide by the norm (w'' instead of w').
        up: whether to transpose the convolution, with stride 2 and without padding: 2H + 1.
        grouped: whether to scale the weights, in a grouped convolution with a group for each
            sample, instead of the input and the output; both give the same.

    Returns:
        (B, O, H, W), or (B, O, 2H + 1, 2W + 1).
    """
    style = at_least_float32(style)
    norm = style.new_ones(1, len(weight))
    if demodulate:
        with without_autocast(style):
            squares = at_least_float32(weight).square().sum((2, 3))
            norm = (style.square() @ squares.T + 1e-8).rsqrt()
    if grouped:
        own = weight * style[:, None, :, None, None] * norm[:, :, None, None, None]
        together = x.reshape(1, -1, *x.shape[2:])
        y = _convolve(together, own.to(x.dtype), up)
        return y.view(len(x), -1, *y.shape[2:])
    y = _convolve(x * style[:, :, None, None].to(x.dtype), weight[None].to(x.dtype), up)
    return y * norm[:, :, None, None].to(y.dtype) if demodulate else y


def _convolve(x: Tensor, weight: Tensor, up: bool) -> Tensor:
    """Convolves (B, G * I, H, W) with the weights (G, O, I, k, k) of G groups."""
    groups, padding = len(weight), weight.shape[-1] // 2
    if up:
        return F.conv_transpose2d(x, weight.transpose(1, 2).flatten(0, 1), stride=2, groups=groups)
    return F.conv2d(x, weight.flatten(0, 1), padding=padding, groups=groups)
