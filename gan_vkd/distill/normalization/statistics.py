"""Mean and (co)variance of the teacher's features: running, of a whole set, or of a batch."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from gan_vkd.distill.normalization.interface import Normalization
from gan_vkd.distill.precision import without_autocast
from gan_vkd.runtime import across

Statistics = Literal["running", "batch", "training_set"]


class Moments(NamedTuple):
    """Number of samples (), their mean (d,) and their central second moments."""

    samples: Tensor
    mean: Tensor
    second: Tensor


class RunningStatistics(Normalization):
    """Running mean and (co)variance of features, in float64 under any autocast.

    A batch of B samples is weighted by max(B / number of samples so far, momentum): at first the
    statistics are exact, later they become an exponential average. With `momentum = 0` they stay
    exact. With a process group, running and batch statistics cover the samples of all ranks.

    Args:
        width: d.
        momentum: the minimum weight of a batch, in [0, 1].
        eps: added to variances (eigenvalues) before the inverse square root.
        statistics: the statistics that normalise a batch in training mode: "running", those of the
            "batch" alone, or those of the "training_set", for which `fit` must be called before. In
            eval mode, and after `fit`, the stored statistics are always used.
        extra: number of columns that a subclass appends to the features for further statistics.
    """

    samples: Tensor
    fitted: Tensor
    mean: Tensor
    second: Tensor

    def __init__(
        self,
        width: int,
        *,
        momentum: float = 0.0,
        eps: float = 1e-5,
        statistics: Statistics = "running",
        extra: int = 0,
    ) -> None:
        super().__init__(width)
        RunningStatistics.check(momentum=momentum, eps=eps, statistics=statistics)
        self.momentum, self.eps, self.statistics = momentum, eps, statistics
        self._fitted = False  # copy of the buffer, read without a device synchronisation
        self.register_buffer("samples", torch.zeros((), dtype=torch.int64))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(width + extra, dtype=torch.float64))

    @classmethod
    def check(cls, **options: Any) -> None:
        super().check(**options)
        momentum, eps, statistics = (options[key] for key in ("momentum", "eps", "statistics"))
        if not 0 <= momentum <= 1 or eps < 0:
            raise ValueError(f"momentum must be in [0, 1] and eps >= 0, got {momentum}, {eps}")
        if statistics not in get_args(Statistics):
            known = ", ".join(get_args(Statistics))
            raise ValueError(f"statistics must be one of {known}, got {statistics}")

    def _extended(self, features: Tensor) -> Tensor:
        """Features (B, d) -> the features with the extra columns appended."""
        return features

    def _central(self, centred: Tensor) -> Tensor:
        """Sums the (co)variance terms of centred features, with extra columns, over the batch."""
        raise NotImplementedError

    def _transform_of(self, moments: Moments) -> Tensor:
        """Computes the transform for `_apply_transform` from the moments."""
        raise NotImplementedError

    def _running_transform(self) -> Tensor:
        return self._transform_of(self.moments)

    def _apply_transform(self, centred: Tensor, transform: Tensor) -> Tensor:
        """Centred features (B, d) -> normalised features (B, d)."""
        raise NotImplementedError

    @property
    def moments(self) -> Moments:
        """The running moments."""
        return Moments(self.samples, self.mean, self.second)

    @torch.no_grad()
    def update(self, features: Tensor) -> Moments:
        """Updates the running statistics with a batch (B, d) and returns the batch's own moments.

        Moments are merged as in Chan et al. 1983.
        """
        with without_autocast(features):
            return self._update(features)

    def _update(self, features: Tensor) -> Moments:
        x = self._extended(features.detach().to(self.mean.dtype))
        packed = across.total(torch.cat([x.sum(0), x.new_full((1,), x.shape[0])]))
        total, count = packed[:-1], packed[-1]  # the count stays on the device
        batch_mean = total / count
        central = across.total(self._central(x - batch_mean)) / count
        self.samples += count.long()
        weight = (count / self.samples).clamp_min(self.momentum)
        shift = self._central((batch_mean - self.mean)[None])
        self.second.lerp_(central, weight).add_(shift * weight * (1 - weight))
        self.mean.lerp_(batch_mean, weight)
        return Moments(count, batch_mean, central)

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Sets the exact statistics of a whole set from its batches (B, d), and freezes them.

        Raises:
            ValueError: there are no batches.
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

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        with without_autocast(features):
            return self._normalized(features)

    def _normalized(self, features: Tensor) -> Tensor:
        x = features.detach().to(self.mean.dtype)
        if self.training and not self._fitted:
            if self.statistics == "training_set":
                raise ValueError("statistics = training_set needs a fit: call fit first")
            batch = self.update(features)
            if self.statistics == "batch":
                centred = x - batch.mean[: self.width]
                return self._apply_transform(centred, self._transform_of(batch)).float()
        centred = x - self.mean[: self.width]
        return self._apply_transform(centred, self._running_transform()).float()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._fitted = bool(self.fitted)
