"""Standardisation of each dimension over the samples."""

import torch
from torch import Tensor

from gan_vkd.distill.normalization.interface import NORMALIZATIONS
from gan_vkd.distill.normalization.statistics import Moments, RunningStatistics, Statistics


@NORMALIZATIONS.register("standardize")
class Standardize(RunningStatistics):
    """Zero mean and unit variance of every dimension over the samples."""

    def __init__(
        self,
        width: int,
        *,
        momentum: float = 0.0,
        eps: float = 1e-5,
        statistics: Statistics = "running",
    ) -> None:
        super().__init__(width, momentum=momentum, eps=eps, statistics=statistics)
        self.register_buffer("second", torch.zeros(width, dtype=torch.float64))

    def _central(self, centred: Tensor) -> Tensor:
        return centred.square().sum(0)

    def _transform_of(self, moments: Moments) -> Tensor:
        return (moments.second + self.eps).rsqrt()

    def _apply_transform(self, centred: Tensor, transform: Tensor) -> Tensor:
        return centred * transform
