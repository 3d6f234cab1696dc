"""Normalisations of the teacher's features: what the student is asked to match.

Layer norm suits recognition, whitening suits generation (Miles, Elezi and Deng, CVPR 2024, section
3.3). One interface: features (B, d) in, features (B, d) out, no gradient through the statistics. In
training mode a module first updates its running statistics with the batch, in eval mode it only
applies them.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class Normalization(nn.Module):
    """Base of all: `width` is d, the width of the features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"a normalisation needs a positive width, got {width}")
        self.width = width


class Identity(Normalization):
    """The features as they are."""

    def forward(self, features: Tensor) -> Tensor:
        return features


class LayerNorm(Normalization):
    """Zero mean and unit variance over the depth of each sample, without affine parameters."""

    def forward(self, features: Tensor) -> Tensor:
        return F.layer_norm(features.float(), (self.width,))


class RunningStatistics(Normalization):
    """Mean and covariance (or variance) of all features seen, in float64 whatever the autocast.

    A new batch of B samples gets the weight max(B / samples seen, momentum): the exact statistics
    of everything seen at first, an exponential average later. `momentum = 0` stays exact. With a
    process group, the statistics are those of all ranks' samples together.

    Args:
        width: d.
        momentum: the least weight of a batch, in [0, 1].
        eps: added to variances (eigenvalues) before the inverse root.
    """

    samples: Tensor
    mean: Tensor
    second: Tensor

    def __init__(self, width: int, *, momentum: float = 0.0, eps: float = 1e-5) -> None:
        super().__init__(width)
        if not 0 <= momentum <= 1 or eps < 0:
            raise ValueError(f"momentum must be in [0, 1] and eps >= 0, got {momentum}, {eps}")
        self.momentum, self.eps = momentum, eps
        self._seen = 0
        self.register_buffer("samples", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))

    def _central(self, centred: Tensor) -> Tensor:
        """Sum over the batch of the (co)variance terms of centred features (B, d)."""
        raise NotImplementedError

    def _outer(self, delta: Tensor) -> Tensor:
        """The (co)variance that a shift of the mean by delta (d) adds."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Takes a batch (B, d) into the statistics (Chan et al. 1983, parallel moments)."""
        x = features.detach().double()
        count, total = x.shape[0], x.sum(0)
        if dist.is_available() and dist.is_initialized():
            packed = torch.cat([total, total.new_tensor([float(count)])])
            dist.all_reduce(packed)
            count, total = int(packed[-1]), packed[:-1]
        batch_mean = total / count
        central = self._central(x - batch_mean)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(central)
        self._seen += count
        self.samples += count
        weight = max(count / self._seen, self.momentum)
        delta = batch_mean - self.mean
        self.second.lerp_(central / count, weight).add_(
            self._outer(delta), alpha=weight * (1 - weight)
        )
        self.mean.lerp_(batch_mean, weight)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._seen = int(self.samples)


class Standardize(RunningStatistics):
    """Zero mean and unit variance of every dimension over the samples seen."""

    def __init__(self, width: int, *, momentum: float = 0.0, eps: float = 1e-5) -> None:
        super().__init__(width, momentum=momentum, eps=eps)
        self.register_buffer("second", torch.zeros(width, dtype=torch.float64))

    def _central(self, centred: Tensor) -> Tensor:
        return centred.square().sum(0)

    def _outer(self, delta: Tensor) -> Tensor:
        return delta.square()

    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            self.update(features)
        scale = (self.second + self.eps).rsqrt()
        return ((features.detach().double() - self.mean) * scale).float()


class Whitening(RunningStatistics):
    """ZCA whitening: (z - mean) U diag((lambda + eps)^-1/2) U^T, of the running covariance.

    The eigendecomposition is taken anew every `every` updates, and at every power of two before
    (the statistics move fastest at first). Nothing is differentiated through it. With fewer samples
    than dimensions the covariance is singular: directions without variance (relative to the
    largest eigenvalue, to rounding) map to zero unless shrinkage gives them some.

    Args:
        width: d.
        momentum: least weight of a batch in the running statistics, 0 for exact averages.
        eps: added to the eigenvalues.
        shrinkage: rho in (1 - rho) cov + rho diag(cov), in [0, 1].
        every: updates between two eigendecompositions.
    """

    updates: Tensor
    transform: Tensor

    def __init__(
        self,
        width: int,
        *,
        momentum: float = 0.0,
        eps: float = 1e-5,
        shrinkage: float = 0.0,
        every: int = 100,
    ) -> None:
        super().__init__(width, momentum=momentum, eps=eps)
        if not 0 <= shrinkage <= 1 or every < 1:
            raise ValueError(
                f"shrinkage must be in [0, 1] and every >= 1, got {shrinkage}, {every}"
            )
        self.shrinkage, self.every = shrinkage, every
        self._updates = 0
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("second", torch.zeros(width, width, dtype=torch.float64))
        self.register_buffer("transform", torch.eye(width, dtype=torch.float64))

    def _central(self, centred: Tensor) -> Tensor:
        return centred.T @ centred

    def _outer(self, delta: Tensor) -> Tensor:
        return torch.outer(delta, delta)

    def update(self, features: Tensor) -> None:
        super().update(features)
        self._updates += 1
        self.updates += 1
        settling = self._updates < self.every and self._updates.bit_count() == 1
        if settling or self._updates % self.every == 0:
            self.decompose()

    @torch.no_grad()
    def decompose(self) -> None:
        """Takes the whitening matrix from the present covariance."""
        cov = torch.lerp(self.second, torch.diag(self.second.diagonal()), self.shrinkage)
        values, vectors = torch.linalg.eigh(cov)
        rounding = values[-1].clamp_min(0) * self.width * torch.finfo(values.dtype).eps
        scale = torch.where(values > rounding, (values.clamp_min(0) + self.eps).rsqrt(), 0.0)
        self.transform.copy_((vectors * scale) @ vectors.T)

    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            self.update(features)
        return ((features.detach().double() - self.mean) @ self.transform).float()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._updates = int(self.updates)


NORMALIZATIONS: dict[str, type[Normalization]] = {
    "layer_norm": LayerNorm,
    "standardize": Standardize,
    "whitening": Whitening,
    "none": Identity,
}


def make_normalization(name: str, width: int, **options: Any) -> Normalization:
    """A normalisation by name: one of NORMALIZATIONS, with the options of its class."""
    return NORMALIZATIONS[name](width, **options)
