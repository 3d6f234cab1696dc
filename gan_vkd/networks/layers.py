"""Layers of generators and discriminators: spectral norm, and batch norm over all ranks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_vkd.distill.precision import at_least_float32, without_autocast
from gan_vkd.runtime import across


class SpectralNorm:
    """Divides a layer's weight by its largest singular value (Miyato et al., ICLR 2018).

    One power iteration per forward; the left singular vector is stored in training mode only. The
    gradient goes through the singular value but not through the vectors.
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
        image = v @ matrix.T
        u = F.normalize(image.detach(), eps=1e-8)
        sigma = (image @ u.T).squeeze()
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
    """Batch norm of (B, C, H, W) without gain and bias, over the samples of all ranks.

    Its arithmetic is in float32 or better; the result has the type of x.
    """
    if not training or across.world() == 1:
        return F.batch_norm(x, mean, var, training=training)
    dims, count = (0, 2, 3), x.numel() // x.shape[1] * across.world()
    precise = at_least_float32(x)
    batch_mean = across.total(precise.sum(dims)) / count
    centred = precise - batch_mean[:, None, None]
    batch_var = across.total(centred.square().sum(dims)) / count
    with torch.no_grad():
        mean.lerp_(batch_mean, 0.1)
        var.lerp_(batch_var * count / (count - 1), 0.1)
    return (centred * (batch_var + 1e-5).rsqrt()[:, None, None]).to(x.dtype)


def scaled(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """bias + gain * x in the type of x: that of convolutions under autocast, not of the gains."""
    return torch.addcmul(bias.to(x.dtype), x, gain.to(x.dtype))


class Standardization(nn.Module):
    """Base class of the batch norms: standardisation with running statistics (C,).

    of_batch: whether eval mode also uses the statistics of the current batch, on this rank alone;
    the running statistics are then neither used nor updated.
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
    """Batch norm with a gain and a bias per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.standardize(x)
        return scaled(x, self.gain[:, None, None], self.bias[:, None, None])


class ClassBatchNorm(Standardization):
    """Batch norm with a gain and a bias per class and channel; one class if unconditional."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels)
        self.gain = nn.Embedding(classes, channels)
        self.bias = nn.Embedding(classes, channels)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        x = self.standardize(x)
        gain, bias = self.gain(labels), self.bias(labels)
        return scaled(x, 1 + gain[:, :, None, None], bias[:, :, None, None])
