"""Normalisations of the teacher's features: what the student is asked to match.

Layer norm suits recognition, whitening suits generation (Miles, Elezi and Deng, CVPR 2024, section
3.3). One interface: features (B, d) in, features (B, d) in float32 out, no gradient. In training
mode a module with statistics first takes the batch into them, in eval mode, and after `fit`, it
only applies them.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from gan_vkd.distill.precision import Precise


class Normalization(Precise):
    """Base of all: `width` is d, the width of the features.

    Raises:
        ValueError: a width below one.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"a normalisation needs a positive width, got {width}")
        self.width = width


class Identity(Normalization):
    """The features as they are."""

    def forward(self, features: Tensor) -> Tensor:
        return features.detach().float()


class LayerNorm(Normalization):
    """Zero mean and unit variance over the depth of each sample, without affine parameters."""

    def forward(self, features: Tensor) -> Tensor:
        return F.layer_norm(features.detach().float(), (self.width,))


class L2(Normalization):
    """Unit length of each sample."""

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(features.detach().float(), dim=1)


class RunningStatistics(Normalization):
    """Mean and (co)variance of all features seen, in float64 whatever the autocast.

    A new batch of B samples gets the weight max(B / samples seen, momentum): the exact statistics
    of everything seen at first, an exponential average later. `momentum = 0` stays exact. With a
    process group, the statistics are those of all ranks' samples together.

    Args:
        width: d.
        momentum: the least weight of a batch, in [0, 1].
        eps: added to variances (eigenvalues) before the inverse root.
    """

    samples: Tensor
    fitted: Tensor
    mean: Tensor
    second: Tensor

    def __init__(self, width: int, *, momentum: float = 0.0, eps: float = 1e-5) -> None:
        super().__init__(width)
        if not 0 <= momentum <= 1 or eps < 0:
            raise ValueError(f"momentum must be in [0, 1] and eps >= 0, got {momentum}, {eps}")
        self.momentum, self.eps = momentum, eps
        self._fitted = False
        self.register_buffer("samples", torch.zeros((), dtype=torch.int64))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))

    def _central(self, centred: Tensor) -> Tensor:
        """Sum over the batch of the (co)variance terms of centred features (B, d)."""
        raise NotImplementedError

    def _apply_statistics(self, centred: Tensor) -> Tensor:
        """Features (B, d) without their mean -> normalised features (B, d)."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Takes a batch (B, d) into the statistics (Chan et al. 1983, parallel moments)."""
        x = features.detach().to(self.mean.dtype)
        packed = torch.cat([x.sum(0), x.new_full((1,), x.shape[0])])
        if _several_ranks():
            dist.all_reduce(packed)
        total, count = packed[:-1], packed[-1]  # which stays on the device
        batch_mean = total / count
        central = self._central(x - batch_mean)
        if _several_ranks():
            dist.all_reduce(central)
        self.samples += count.long()
        weight = (count / self.samples).clamp_min(self.momentum)
        shift = self._central((batch_mean - self.mean)[None])
        self.second.lerp_(central / count, weight).add_(shift * weight * (1 - weight))
        self.mean.lerp_(batch_mean, weight)

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Exact statistics of a whole set, batch (B, d) by batch; they do not move any more.

        Raises:
            ValueError: no batches.
        """
        momentum, self.momentum = self.momentum, 0.0
        self.samples.zero_()
        for batch in batches:
            self.update(batch)
        self.momentum = momentum
        if not int(self.samples):
            raise ValueError("cannot fit a normalisation to no features")
        self._fitted = True
        self.fitted.fill_(True)

    def forward(self, features: Tensor) -> Tensor:
        if self.training and not self._fitted:
            self.update(features)
        return self._apply_statistics(features.detach().to(self.mean.dtype) - self.mean).float()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._fitted = bool(self.fitted)


def _several_ranks() -> bool:
    return dist.is_available() and dist.is_initialized()


class Standardize(RunningStatistics):
    """Zero mean and unit variance of every dimension over the samples seen."""

    def __init__(self, width: int, *, momentum: float = 0.0, eps: float = 1e-5) -> None:
        super().__init__(width, momentum=momentum, eps=eps)
        self.register_buffer("second", torch.zeros(width, dtype=torch.float64))

    def _central(self, centred: Tensor) -> Tensor:
        return centred.square().sum(0)

    def _apply_statistics(self, centred: Tensor) -> Tensor:
        return centred * (self.second + self.eps).rsqrt()


class Whitening(RunningStatistics):
    """(z - mean) W with W^T cov W = I, from a decomposition of the running covariance.

    The decomposition is taken anew every `every` updates, and at every power of two before (the
    statistics move fastest at first). With fewer samples than dimensions the covariance is
    singular: directions without variance (to rounding, against the largest) map to zero, unless
    shrinkage gives them some.

    Args:
        width: d.
        kind: "zca" W = U diag(lambda + eps)^-1/2 U^T, closest to the features as they were; "pca"
            W = U diag(lambda + eps)^-1/2, largest variance first, the largest entry of each
            direction positive; "cholesky" W = C^-T with C C^T = cov + eps I (Kessy, Lewin and
            Strimmer 2018). Only zca does not jump where eigenvalues cross.
        momentum: least weight of a batch in the running statistics, 0 for exact averages.
        eps: added to the eigenvalues.
        shrinkage: rho in (1 - rho) cov + rho diag(cov), in [0, 1]; "auto" is w / (w + samples),
            w the width of a group.
        every: updates between two decompositions.
        groups: whitened each by itself, d / groups neighbouring dimensions each, for wide teachers.
    """

    updates: Tensor
    transform: Tensor

    def __init__(
        self,
        width: int,
        *,
        kind: Literal["zca", "pca", "cholesky"] = "zca",
        momentum: float = 0.0,
        eps: float = 1e-5,
        shrinkage: float | Literal["auto"] = "auto",
        every: int = 100,
        groups: int = 1,
    ) -> None:
        super().__init__(width, momentum=momentum, eps=eps)
        if shrinkage != "auto" and not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage must be auto or in [0, 1], got {shrinkage}")
        if every < 1 or groups < 1 or width % groups:
            raise ValueError(
                f"every must be positive and groups divide the width {width}, got {every}, {groups}"
            )
        self.decomposition = DECOMPOSITIONS[kind]
        self.shrinkage, self.every, self.groups = shrinkage, every, groups
        size = width // groups
        self._updates = 0
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("second", torch.zeros(groups, size, size, dtype=torch.float64))
        self.register_buffer("transform", torch.eye(size, dtype=torch.float64).repeat(groups, 1, 1))

    def _grouped(self, features: Tensor) -> Tensor:
        """(B, d) -> (groups, B, d / groups)."""
        return features.unflatten(1, (self.groups, -1)).transpose(0, 1)

    def _central(self, centred: Tensor) -> Tensor:
        grouped = self._grouped(centred)
        return grouped.mT @ grouped

    def update(self, features: Tensor) -> None:
        super().update(features)
        self._updates += 1
        self.updates += 1
        settling = self._updates < self.every and self._updates.bit_count() == 1
        if settling or self._updates % self.every == 0:
            self.decompose()

    def fit(self, batches: Iterable[Tensor]) -> None:
        super().fit(batches)
        self.decompose()

    @torch.no_grad()
    def decompose(self) -> None:
        """Takes the whitening matrix from the present covariance."""
        size = self.second.shape[-1]
        auto = size / (size + int(self.samples))
        rho = auto if self.shrinkage == "auto" else self.shrinkage
        diagonal = torch.diag_embed(self.second.diagonal(dim1=1, dim2=2))
        cov = torch.lerp(self.second, diagonal, rho)
        self.transform.copy_(self.decomposition(cov, self.eps))

    def _apply_statistics(self, centred: Tensor) -> Tensor:
        return (self._grouped(centred) @ self.transform).transpose(0, 1).flatten(1)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._updates = int(self.updates)


def _inverse_root(cov: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Eigenvectors, and (lambda + eps)^-1/2 where lambda is not rounding, else 0; of (G, d, d)."""
    values, vectors = torch.linalg.eigh(cov)
    rounding = values[:, -1:].clamp_min(0) * cov.shape[-1] * torch.finfo(values.dtype).eps
    scale = torch.where(values > rounding, (values.clamp_min(0) + eps).rsqrt(), 0.0)
    return vectors, scale[:, None]


def _zca(cov: Tensor, eps: float) -> Tensor:
    vectors, scale = _inverse_root(cov, eps)
    return (vectors * scale) @ vectors.mT


def _pca(cov: Tensor, eps: float) -> Tensor:
    vectors, scale = _inverse_root(cov, eps)
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return (vectors * largest.sign() * scale).flip(2)


def _cholesky(cov: Tensor, eps: float) -> Tensor:
    unit = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    trace = cov.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    # the least that keeps a singular covariance positive definite in floating point
    rounding = trace * cov.shape[-1] * torch.finfo(cov.dtype).eps
    factor, _ = torch.linalg.cholesky_ex(cov + (eps + rounding) * unit)
    return torch.linalg.solve_triangular(factor.mT, unit.expand_as(cov), upper=True)


DECOMPOSITIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "zca": _zca,
    "pca": _pca,
    "cholesky": _cholesky,
}

NORMALIZATIONS: dict[str, Callable[..., Normalization]] = {
    "layer_norm": LayerNorm,
    "standardize": Standardize,
    "whitening": Whitening,
    "whitening_pca": partial(Whitening, kind="pca"),
    "whitening_cholesky": partial(Whitening, kind="cholesky"),
    "l2": L2,
    "none": Identity,
}


def make_normalization(name: str, width: int, **options: Any) -> Normalization:
    """A normalisation by name: one of NORMALIZATIONS, with the options of its class."""
    return NORMALIZATIONS[name](width, **options)
