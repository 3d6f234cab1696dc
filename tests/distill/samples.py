"""Synthetic features, and the distance of their covariance to the identity."""

import math

import torch
from torch import Tensor


def correlated(count: int, d: int, seed: int = 0) -> Tensor:
    """Returns features whose covariance eigenvalues span three decades, with mean 3."""
    source = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    scale = torch.logspace(0, -1.5, d, dtype=torch.float64)
    z = torch.randn(count, d, generator=source, dtype=torch.float64)
    return (z * scale) @ torch.linalg.qr(mix)[0] + 3


def distance_to_identity(z: Tensor) -> float:
    z = z.double()
    cov = (z - z.mean(0)).T @ (z - z.mean(0)) / len(z)
    return float((cov - torch.eye(z.shape[1])).norm() / math.sqrt(z.shape[1]))


def two_views(count: int, noise: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns two views: a common part of decreasing variance and own noise, in a rotated basis."""
    source = torch.Generator().manual_seed(seed)
    d = len(noise)
    scale = torch.logspace(0.5, -0.5, d, dtype=torch.float64)
    drawn = torch.randn(3, count, d, generator=source, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(d, d, generator=source, dtype=torch.float64))[0]
    common = drawn[0]
    first, second = ((common + noise * own) / (1 + noise**2).sqrt() for own in drawn[1:])
    return (first * scale) @ turn + 2, (second * scale) @ turn + 2
