"""What features of pictures are worth as targets, from their values on two augmented views.

Features are (N, d), the views with corresponding rows. All statistics are in float64.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_vkd.distill.normalization import effective_rank, view_agreement
from gan_vkd.distill.normalization.spectrum import principal

FOLDS = 5  # parts of the pictures, each of them held out once
STRENGTHS = np.logspace(0, 5, 6)  # of the ridge, for dimensions of unit variance


class Spectrum(NamedTuple):
    """Principal directions of features, by descending variance.

    rank: the effective rank, exp(-sum_k p_k ln p_k) with p_k the share of the variance in direction
    k (Roy and Vetterli, EUSIPCO 2007, definition 1); between 1 and d, 0 without any variance.
    agreement: (d,), the correlation of each direction between the two views; 0 where the variance
    is rounding, as it is in all but 2 N - 1 directions of few pictures.
    """

    rank: float
    agreement: Tensor


def spectrum(first: Tensor, second: Tensor) -> Spectrum:
    """The principal directions of both views' features together."""
    a, b = first.double(), second.double()
    mean = (a.mean(0) + b.mean(0)) / 2
    a, b = a - mean, b - mean
    values, vectors = principal((a.T @ a + b.T @ b)[None] / (2 * len(a)))
    agreement = view_agreement((a @ vectors[0])[None], (b @ vectors[0])[None])[0]
    known = values[0] > values.max() * values.shape[1] * torch.finfo(values.dtype).eps
    return Spectrum(
        rank=float(effective_rank(values)[0]) if values.any() else 0.0,
        agreement=torch.where(known, agreement, 0.0),
    )


def signal(first: Tensor, second: Tensor) -> float:
    """Share of the features' variance that the two views of a picture have in common.

    2 E<a, b> / (E|a|^2 + E|b|^2) for centred views a and b: the cosine of the two views, averaged
    over pictures with their squared norms as weights. With a = s + n and b = s + m, where n and m
    are independent effects of the augmentations, it is var(s) / (var(s) + var(n)): what a student
    that sees another view can at most explain of these features, as R^2. 0 without any variance.
    """
    a, b = _centred(first, second)
    squares = float(a.square().sum() + b.square().sum())
    return 2 * float((a * b).sum()) / squares if squares else 0.0


def retrieval(first: Tensor, second: Tensor) -> float:
    """Share of the pictures whose second view is, of all, the nearest to their first one (cosine of
    centred features); 1 / N for features that know nothing of their picture."""
    a, b = (F.normalize(view, dim=1) for view in _centred(first, second))
    nearest = (a @ b.T).argmax(1)
    return float((nearest == torch.arange(len(a), device=a.device)).double().mean())


def _centred(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    a, b = first.double(), second.double()
    mean = (a.mean(0) + b.mean(0)) / 2
    return a - mean, b - mean


@dataclass(frozen=True)
class Probe:
    """Accuracy of a linear classifier on pictures that it was not fitted to.

    low, high: 95% interval (Wilson, 1927), of independent predictions; pictures: their number.
    """

    accuracy: float
    low: float
    high: float
    pictures: int


def probe(features: Tensor, labels: Tensor, seed: int = 0) -> Probe:
    """Ridge classification of standardised features, by stratified cross-validation.

    The pictures of every class are distributed evenly over at most FOLDS parts. Each part is held
    out once; its pictures are classified by a ridge regression on the others, whose strength is
    chosen among those by leave-one-out.

    Args:
        features: (N, d).
        labels: (N,), with at least two classes, of at least two pictures each.
        seed: of the parts.
    """
    from scipy.stats import binomtest
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    x, y = features.double().cpu(), labels.cpu().numpy()
    scale = x.std(0, correction=0)
    x = torch.where(scale > 0, (x - x.mean(0)) / scale, 0.0)
    folds = StratifiedKFold(min(FOLDS, int(np.bincount(y)[np.unique(y)].min())), shuffle=True,
                            random_state=seed)  # fmt: skip
    predicted = cross_val_predict(RidgeClassifierCV(STRENGTHS), x.numpy(), y, cv=folds)
    right = int((predicted == y).sum())
    interval = binomtest(right, len(y)).proportion_ci(method="wilson")
    return Probe(right / len(y), interval.low, interval.high, len(y))
