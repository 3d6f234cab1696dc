"""Measures of samples beside the Frechet distance: fidelity, diversity and copying.

All are functions of features (N, d) of any network; features that are not finite raise ValueError.
Distances are computed in float64 by matrix products, block by block, on the device of the set that
the samples are compared with.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gan_vkd.runtime.bars import progress_bar

BLOCK = 1_000_000  # distances in a block: 8 MB, which stay in the cache of a CPU
ROUNDING = 1e-9  # relative change of a radius that makes a ball closed or open


class Neighbourhoods:
    """Features (N, d) of a set that others are compared with repeatedly; caches their radii.

    device: where distances are computed; it must have float64.
    """

    def __init__(self, features: np.ndarray, device: str = "cpu") -> None:
        self.features, self.device = features, device
        self._radii: dict[int, Tensor] = {}

    def radii(self, k: int) -> Tensor:
        """Distances (N,) of each sample to its k-th nearest other one, computed once for each k."""
        if k not in self._radii:
            self._radii[k] = _radii(self.points(), k)
        return self._radii[k]

    @cached_property
    def left_out_rate(self) -> float:
        """The memorisation rate of the set's own members, each of them among the others.

        It estimates the rate of unseen images. The nearest other member of one is nearer to it than
        to any third where each is the other's nearest: the rate is the share in such pairs.
        """
        points, radii = self.points(), self.radii(1)
        nearest = [block.topk(2, largest=False).indices for block in _distances(points, points)]
        others = torch.cat(nearest)[:, 1]
        return float((radii <= radii[others] * (1 + ROUNDING)).double().mean())

    def points(self) -> Tensor:
        return _double(self.features, self.device)


def precision_recall(
    real: np.ndarray | Neighbourhoods, fake: np.ndarray, k: int = 3
) -> dict[str, float]:
    """Improved precision and recall (Kynkaanniemi et al., NeurIPS 2019, equations 1 and 2).

    A sample is covered by a set where it lies within the distance from some member to its k-th
    nearest neighbour in the set. Precision is the share of fake samples covered by the real set,
    recall the share of real ones covered by the fake set.

    Args:
        real, fake: features (N, d) and (M, d).
        k: 3 in the paper.

    Raises:
        ValueError: a set of k samples or fewer.
    """
    known = _neighbourhoods(real)
    x, y = known.points(), _double(fake, known.device)
    closed = 1 + ROUNDING
    return {
        "precision": float((_memberships(y, x, known.radii(k) * closed) > 0).double().mean()),
        "recall": float((_memberships(x, y, _radii(y, k) * closed) > 0).double().mean()),
    }


def density_coverage(
    real: np.ndarray | Neighbourhoods, fake: np.ndarray, k: int = 5
) -> dict[str, float]:
    """Density and coverage (Naeem et al., ICML 2020), with open balls as in the authors' code.

    Density is the mean number of real neighbourhoods that a fake sample lies in, over k; coverage
    the share of real samples with a fake one in their neighbourhood.

    Args:
        real, fake: features (N, d) and (M, d).
        k: 5 in the paper.

    Raises:
        ValueError: a real set of k samples or fewer.
    """
    known = _neighbourhoods(real)
    x, y = known.points(), _double(fake, known.device)
    radii = known.radii(k) * (1 - ROUNDING)
    closest = torch.cat([block.amin(1) for block in _distances(x, y)])
    return {
        "density": float(_memberships(y, x, radii).double().mean() / k),
        "coverage": float((closest < radii).double().mean()),
    }


def inception_score(probabilities: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation over splits of exp E KL(p(y|x) || p(y)).

    Salimans et al., NeurIPS 2016, section 4. It is the Inception score only where the
    probabilities are Inception's.

    Args:
        probabilities: (N, C), rows that sum to one.
        splits: number of equal parts, taken in the samples' order.

    Raises:
        ValueError: fewer samples than splits, or rows that are not probabilities.
    """
    if not 1 <= splits <= len(probabilities):
        raise ValueError(f"{len(probabilities)} samples cannot be split into {splits} parts")
    if (probabilities < 0).any() or not np.allclose(probabilities.sum(1), 1, atol=1e-3):
        raise ValueError("the Inception score takes probabilities: rows >= 0 that sum to one")
    scores = []
    for part in np.array_split(probabilities.astype(np.float64), splits):
        logs = np.log(np.maximum(part, 1e-300)) - np.log(np.maximum(part.mean(0), 1e-300))
        scores.append(np.exp((part * logs).sum(1).mean()))
    return float(np.mean(scores)), float(np.std(scores))


def nearest(
    samples: np.ndarray, training: np.ndarray | Neighbourhoods, count: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest training images of each sample, nearest first.

    Args:
        samples, training: features (M, d) and (N, d).
        count: neighbours of each sample, at most N.

    Returns:
        Indices (M, count) into the training set and Euclidean distances (M, count).

    Raises:
        ValueError: no samples, or fewer training images than `count`.
    """
    known = _neighbourhoods(training)
    if not len(samples) or not 1 <= count <= len(known.features):
        images = len(known.features)
        raise ValueError(f"{len(samples)} samples, {images} images: no {count} neighbours")
    blocks = _distances(_double(samples, known.device), known.points())
    found = [block.topk(count, dim=1, largest=False) for block in blocks]
    indices, distances = (torch.cat([f[i] for f in found]).cpu().numpy() for i in (1, 0))
    return indices, distances


def memorisation_rate(samples: np.ndarray, training: np.ndarray | Neighbourhoods) -> float:
    """Share of samples that are nearer to a training image than that image is to any other.

    Such samples are unauthentic (Alaa et al., ICML 2022): the rate is one minus their authenticity.
    Unseen real images have a nonzero rate too, which depends on the dimension (2/3 on a line, far
    less where a few images are nearest to most others): compare with that of held-out images.

    Args:
        samples, training: features (M, d) and (N, d).

    Raises:
        ValueError: a training set of one image.
    """
    known = _neighbourhoods(training)
    radii = known.radii(1).cpu().numpy()
    indices, distances = nearest(samples, known)
    return float((distances <= radii[indices] * (1 + ROUNDING)).mean())


def _neighbourhoods(features: np.ndarray | Neighbourhoods) -> Neighbourhoods:
    return features if isinstance(features, Neighbourhoods) else Neighbourhoods(features)


def _double(features: np.ndarray, device: str) -> Tensor:
    if not len(features) or not np.isfinite(features).all():
        raise ValueError("features are missing or not finite")
    return torch.as_tensor(features, dtype=torch.float64, device=device)


def _distances(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Euclidean distances (n, M) of every block of rows of x (N, d) to y (M, d)."""
    centre = y.mean(0)
    x, y = x - centre, y - centre
    rounding = 1e-6 * y.square().sum(1).mean().sqrt()  # equal samples get distance zero
    for rows in progress_bar(x.split(max(1, BLOCK // len(y))), "nearest neighbours"):
        block = torch.cdist(rows, y, compute_mode="use_mm_for_euclid_dist")
        yield block.masked_fill_(block < rounding, 0.0)


def _radii(x: Tensor, k: int) -> Tensor:
    """Distances (N,) of each sample to its k-th nearest other one."""
    if not 1 <= k < len(x):
        raise ValueError(f"{len(x)} samples have no {k}-th nearest neighbour")
    # each sample is its own first neighbour, at distance zero
    return torch.cat([block.topk(k + 1, largest=False).values[:, -1] for block in _distances(x, x)])


def _memberships(samples: Tensor, centres: Tensor, radii: Tensor) -> Tensor:
    """The number of balls (centre, radius) that contain each sample (M, d): (M,)."""
    return torch.cat([(block < radii).sum(1) for block in _distances(samples, centres)])
