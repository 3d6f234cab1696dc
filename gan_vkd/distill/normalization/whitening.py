"""Whitening: normalisation to identity covariance."""

from typing import Any, Literal

import torch
from torch import Tensor

from gan_vkd.distill.normalization.covariance import RunningCovariance
from gan_vkd.distill.normalization.interface import NORMALIZATIONS
from gan_vkd.distill.normalization.shrinkage import (
    fourth_moment,
    ledoit_wolf,
    oas,
    towards_diagonal,
    towards_identity,
)
from gan_vkd.distill.normalization.spectrum import leading, principal, view_agreement
from gan_vkd.distill.normalization.statistics import Moments, Statistics


@NORMALIZATIONS.register("whitening")
class Whitening(RunningCovariance):
    """(z - mean) W with W^T cov W = I, from a decomposition of the covariance.

    With fewer samples than dimensions the covariance is singular. Without shrinkage, "zca" and
    "pca" then whiten the span of the samples: directions whose variance is zero up to rounding are
    mapped to zero, so that W is the pseudo-inverse of the square root. "cholesky" adds the smallest
    multiple of I that keeps the covariance positive definite in floating point.

    Args:
        width: d.
        kind: "zca" W = U diag(lambda + eps)^-1/2 U^T, closest to the original features; "pca"
            W = U diag(lambda + eps)^-1/2, in the order of descending variance, the largest entry of
            each direction positive; "cholesky" W = C^-T with C C^T = cov + eps I (Kessy, Lewin and
            Strimmer 2018). "pca" is discontinuous where eigenvalues cross.
        momentum: minimum weight of a batch in the running statistics, 0 for exact averages.
        eps: added to the eigenvalues.
        shrinkage: rho in (1 - rho) cov + rho diag(cov), in [0, 1]; "auto" is w / (w + samples),
            with w the width of a group. "ledoit_wolf" and "oas" estimate rho, with the scaled
            identity in place of diag(cov).
        directions: the principal directions of each group to keep; the others are mapped to zero.
            None: all; an int: this number; a float in (0, 1): the fewest that explain this share of
            the variance (after shrinkage); "agreement": as many as agree between two views of the
            samples, for which `fit_views` must be called.
        agreement: minimum correlation between the views for a direction to agree.
        every: number of updates between two decompositions of the running covariance.
        groups: number of groups of d / groups neighbouring dimensions that are whitened separately,
            for wide teachers.
        statistics: as in RunningStatistics.

    Raises:
        ValueError: an option is out of range, or options exclude each other.
    """

    def __init__(
        self,
        width: int,
        *,
        kind: Literal["zca", "pca", "cholesky"] = "zca",
        momentum: float = 0.0,
        eps: float = 1e-5,
        shrinkage: float | Literal["auto", "ledoit_wolf", "oas"] = "auto",
        directions: int | float | Literal["agreement"] | None = None,
        agreement: float = 0.5,
        every: int = 100,
        groups: int = 1,
        statistics: Statistics = "running",
    ) -> None:
        self.check(
            kind=kind, momentum=momentum, eps=eps, shrinkage=shrinkage, directions=directions,
            agreement=agreement, every=every, groups=groups, statistics=statistics,
        )  # fmt: skip
        super().__init__(
            width,
            momentum=momentum,
            eps=eps,
            statistics=statistics,
            every=every,
            groups=groups,
            extra=groups if shrinkage == "ledoit_wolf" else 0,
        )
        if isinstance(directions, int) and directions > self.size:
            raise ValueError(f"directions must be 1 to {self.size}, got {directions}")
        self.kind, self.shrinkage = kind, shrinkage
        self.directions, self.agreement = directions, agreement
        self._agreeing: Tensor | None = None

    @classmethod
    def check(cls, **options: Any) -> None:
        super().check(**options)
        shrinkage, momentum = options["shrinkage"], options["momentum"]
        directions, agreement = options["directions"], options["agreement"]
        if not isinstance(shrinkage, str) and not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage must be auto or in [0, 1], got {shrinkage}")
        if shrinkage in ("ledoit_wolf", "oas") and momentum > 0:
            raise ValueError(f"shrinkage = {shrinkage} uses the sample count: momentum must be 0")
        if directions is not None and options["kind"] == "cholesky":
            raise ValueError("directions must be null for cholesky: it has no principal directions")
        if isinstance(directions, int) and directions < 1:
            raise ValueError(f"directions must be 1 or more, got {directions}")
        if isinstance(directions, float) and not 0 < directions < 1:
            raise ValueError(f"a share of the variance must be in (0, 1), got {directions}")
        if not 0 < agreement <= 1:
            raise ValueError(f"agreement must be in (0, 1], got {agreement}")
        if agreement != 0.5 and directions != "agreement":
            raise ValueError("agreement belongs to directions = agreement")

    def _extended(self, features: Tensor) -> Tensor:
        if self.shrinkage != "ledoit_wolf":
            return features
        lengths = self._grouped(features).square().sum(2).T
        return torch.cat([features, lengths], 1)

    @torch.no_grad()
    def fit_views(self, first: Tensor, second: Tensor) -> None:
        """Fits to two views of the same samples and keeps the number of directions that agree.

        Args:
            first, second: features (N, d) of the two views, with corresponding rows; with a process
                group, those of this rank's samples.

        Raises:
            ValueError: no direction agrees.
        """
        self._agreeing = torch.full((self.groups,), self.size, device=self.mean.device)
        self.fit([first, second])
        vectors = principal(self._shrunk(self.moments))[1]
        mean = self.mean[: self.width]
        views = [self._grouped(view.detach().to(mean.dtype) - mean) for view in (first, second)]
        found = view_agreement(*(view @ vectors for view in views))
        self._agreeing = (found >= self.agreement).sum(1)
        if not self._agreeing.all():
            raise ValueError(
                f"no direction has a correlation of {self.agreement} between the views: "
                f"the highest is {float(found.max()):.2f}, set a smaller agreement"
            )
        self.decompose()

    def _directions_to_keep(self) -> int | float | Tensor | None:
        if self.directions != "agreement":
            return self.directions
        if self._agreeing is None:
            raise ValueError("directions = agreement needs two views: call fit_views")
        return self._agreeing

    def _shrunk(self, moments: Moments) -> Tensor:
        """The covariance after shrinkage, (groups, d / groups, d / groups)."""
        cov, samples = self.covariance_of(moments), moments.samples.to(moments.mean.dtype)
        if self.shrinkage == "ledoit_wolf":
            mean = moments.mean[: self.width].view(self.groups, -1)
            fourth = fourth_moment(mean, moments.second)
            return towards_identity(cov, ledoit_wolf(cov, samples, fourth))
        if self.shrinkage == "oas":
            return towards_identity(cov, oas(cov, samples))
        auto = self.size / (self.size + samples)
        rho = auto if isinstance(self.shrinkage, str) else torch.full_like(auto, self.shrinkage)
        return towards_diagonal(cov, rho)

    def _transform_of(self, moments: Moments) -> Tensor:
        cov = self._shrunk(moments)
        if self.kind == "cholesky":
            return _cholesky(cov, self.eps)
        values, vectors = principal(cov)
        rounding = values[:, :1] * self.size * torch.finfo(values.dtype).eps
        kept = leading(values, self._directions_to_keep()) & (values > rounding)
        scaled = vectors * torch.where(kept, (values + self.eps).rsqrt(), 0.0)[:, None]
        return scaled @ vectors.mT if self.kind == "zca" else scaled


def _cholesky(cov: Tensor, eps: float) -> Tensor:
    unit = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    trace = cov.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    # the smallest that keeps a singular covariance positive definite in floating point
    rounding = trace * cov.shape[-1] * torch.finfo(cov.dtype).eps
    factor, _ = torch.linalg.cholesky_ex(cov + (eps + rounding) * unit)
    return torch.linalg.solve_triangular(factor.mT, unit.expand_as(cov), upper=True)
