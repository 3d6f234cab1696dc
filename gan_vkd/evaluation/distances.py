"""Distances between two sets of features (N, d): Frechet and kernel distance.

Both are those of clean-fid, of which the Frechet distance is computed in another way: the trace of
sqrt(S1 S2) is the sum of the square roots of the eigenvalues of the symmetric S1^(1/2) S2 S1^(1/2).
With S = R^T R for each covariance, these are the singular values of R1 R2^T. So neither a product
of covariances nor its square root is formed, and singular covariances, of fewer samples than
dimensions, need no correction.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """mean: (d,). root: (r, d), r <= d, such that root^T root is the covariance. Both float64."""

    mean: Tensor
    root: Tensor

    @classmethod
    def of(cls, features: np.ndarray, device: str = "cpu") -> "Gaussian":
        """Mean and unbiased covariance of two or more samples (N, d), computed on the device."""
        x = torch.as_tensor(features, dtype=torch.float64, device=device)
        mean = x.mean(0)
        root = (x - mean) / math.sqrt(len(x) - 1)
        if len(root) > root.shape[1]:
            root = torch.linalg.qr(root, mode="r").R
        return cls(mean, root)


def frechet_distance(features: np.ndarray, reference: np.ndarray | Gaussian) -> float:
    """Squared Frechet distance between the Gaussians fitted to two sets of features.

    |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr sqrt(S1 S2) (Dowson and Landau, 1982), in float64.

    Args:
        features: (N, d), two samples or more.
        reference: features (M, d), or the Gaussian fitted to them.
    """
    known = reference if isinstance(reference, Gaussian) else Gaussian.of(reference)
    own = Gaussian.of(features, str(known.mean.device))
    product = own.root @ known.root.T
    # on the CPU: one decomposition is small, and no faster on a GPU
    common = torch.linalg.svdvals(product.cpu()).sum()
    apart = (own.mean - known.mean).square().sum()
    spread = own.root.square().sum() + known.root.square().sum()
    return float(apart + spread) - 2 * float(common)


def kernel_distance(
    features: np.ndarray,
    reference: np.ndarray,
    seed: int,
    device: str = "cpu",
    subsets: int = 100,
    size: int = 1000,
) -> float:
    """Mean over random subsets of the unbiased squared MMD of the kernel (x y^T / d + 1)^3.

    Binkowski et al., ICLR 2018. The subsets are those that clean-fid draws after
    `numpy.random.seed(seed)`. Products of features have their type; all else is in float64.

    Args:
        features, reference: (N, d) and (M, d), two samples or more.
        seed: of the subsets.
        device: where the products are computed.
        subsets, size: number of subsets, and of samples from each set, at most N and M.
    """
    random = np.random.RandomState(seed)
    sets = [torch.as_tensor(x, device=device) for x in (features, reference)]
    count = min(size, *map(len, sets))
    total = torch.zeros((), dtype=torch.float64, device=device)
    for _ in range(subsets):
        x, y = (z[random.choice(len(z), count, replace=False)] for z in sets)
        for z in (x, y):
            kernel = _kernel(z, z)
            total += (kernel.sum() - kernel.diagonal().sum()) / (count - 1)
        total -= 2 * _kernel(x, y).sum() / count
    return float(total) / subsets / count


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T).double().div_(x.shape[1]).add_(1).pow_(3)
