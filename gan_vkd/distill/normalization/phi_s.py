"""PHI-S: a rotation after which one common scale standardises every dimension."""

import torch
from torch import Tensor

from gan_vkd.distill.normalization.covariance import RunningCovariance
from gan_vkd.distill.normalization.hadamard import hadamard
from gan_vkd.distill.normalization.interface import NORMALIZATIONS
from gan_vkd.distill.normalization.spectrum import principal
from gan_vkd.distill.normalization.statistics import Moments, Statistics


@NORMALIZATIONS.register("phi_s")
class PhiS(RunningCovariance):
    """phi^-1 H U^T (z - mean), phi^2 the mean eigenvalue (Ranzinger et al. 2024, arXiv 2410.01680).

    U are the eigenvectors of the covariance, H is a normalised Hadamard matrix: every output
    dimension gets the same share of every eigenvalue, so that one scale gives variance 1 to all.
    The map is a similarity: unlike whitening it preserves the ratios of all distances. The rotation
    is discontinuous where eigenvalues cross.

    Args:
        width: d; a Hadamard matrix of this size must exist.
        momentum, eps, statistics, every: as in RunningCovariance; eps is added to phi^2.

    Raises:
        ValueError: no Hadamard matrix of this width can be constructed.
    """

    hadamard: Tensor

    def __init__(
        self,
        width: int,
        *,
        momentum: float = 0.0,
        eps: float = 1e-5,
        statistics: Statistics = "running",
        every: int = 100,
    ) -> None:
        super().__init__(width, momentum=momentum, eps=eps, statistics=statistics, every=every)
        self.register_buffer("hadamard", hadamard(width), persistent=False)

    def _transform_of(self, moments: Moments) -> Tensor:
        values, vectors = principal(self.covariance_of(moments))
        square = values.mean(1)[:, None, None] + self.eps
        return vectors @ self.hadamard.T * torch.where(square > 0, square.rsqrt(), 0.0)
