"""Shrinkage of covariances (G, d, d) of few samples, with intensity rho (G,) or () in [0, 1].

Ledoit and Wolf (2004), "A well-conditioned estimator for large-dimensional covariance matrices";
Chen, Wiesel, Eldar and Hero (2010), "Shrinkage algorithms for MMSE covariance estimation"; both as
in scikit-learn.
"""

import torch
from torch import Tensor


def towards_diagonal(cov: Tensor, rho: Tensor) -> Tensor:
    """(1 - rho) cov + rho diag(cov)."""
    diagonal = torch.diag_embed(cov.diagonal(dim1=1, dim2=2))
    return torch.lerp(cov, diagonal, rho.view(-1, 1, 1))


def towards_identity(cov: Tensor, rho: Tensor) -> Tensor:
    """(1 - rho) cov + rho trace(cov) / d I."""
    unit = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device)
    return torch.lerp(cov, _trace(cov)[:, None, None] / len(unit) * unit, rho.view(-1, 1, 1))


def oas(cov: Tensor, samples: Tensor) -> Tensor:
    """Intensity rho of oracle approximating shrinkage (OAS) towards the scaled identity."""
    d = cov.shape[-1]
    square = (_trace(cov) / d).square()
    alpha = cov.square().mean((1, 2))
    spread = (samples + 1) * (alpha - square / d)
    return torch.where(spread > 0, (alpha + square) / spread, 1.0).clamp_max(1)


def ledoit_wolf(cov: Tensor, samples: Tensor, fourth: Tensor) -> Tensor:
    """Intensity rho of Ledoit and Wolf, towards the scaled identity.

    fourth: (G,), the mean over samples of |x - mean|^4.
    """
    d, square = cov.shape[-1], cov.square().sum((1, 2))
    noise = (fourth - square) / (d * samples)
    distance = (square - _trace(cov).square() / d) / d
    return torch.where(distance > 0, noise / distance, 0.0).clamp(0, 1)


def fourth_moment(mean: Tensor, second: Tensor) -> Tensor:
    """The mean of |x - mean|^4, (G,), from the statistics of x with |x|^2 as an extra dimension.

    Since |x - m|^2 = |x|^2 - 2 m x + |m|^2, its variance follows from the covariance of (x, |x|^2).
    The fourth moment is thus exact in one pass and independent of the batch size.

    Args:
        mean: m, (G, d).
        second: covariance of (x, |x|^2), (G, d + 1, d + 1).
    """
    d = mean.shape[1]
    cov, cross, variance = second[:, :d, :d], second[:, :d, d], second[:, d, d]
    along = (cov @ mean[..., None])[..., 0]
    return variance + 4 * (mean * (along - cross)).sum(1) + _trace(cov).square()


def _trace(cov: Tensor) -> Tensor:
    return cov.diagonal(dim1=1, dim2=2).sum(1)
