"""Metrics of samples beside the distances, most of them on the features of the first judge.

A metric is a function of `Samples` that returns numbers by name, registered under its own name.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gan_vkd.evaluation import measures
from gan_vkd.evaluation.measures import Neighbourhoods
from gan_vkd.runtime.registry import Registry
from gan_vkd.runtime.settings import Positive

METRICS: Registry[dict[str, float]] = Registry("metric")


@dataclass(frozen=True)
class Samples:
    """Features (N, d) of samples and of the images that they are compared with.

    fake: of the samples. reference: of the real images. training: of the training images, None
    where they are not available. by_chance: the memorisation rate of the reference; None where that
    is not a held-out set. classify: maps features to class probabilities (N, C); Inception only.
    leaked, leaked_real: (N, 2) bool of samples and real images (gan_vkd/evaluation/leak.py).
    """

    fake: np.ndarray
    reference: Neighbourhoods
    training: Neighbourhoods | None = None
    by_chance: float | None = None
    classify: Callable[[np.ndarray], np.ndarray] | None = None
    leaked: Tensor | None = None
    leaked_real: Tensor | None = None

    @property
    def real(self) -> np.ndarray:
        """The features of the reference."""
        return self.reference.features


@METRICS.register("inception_score")
def inception_score(samples: Samples) -> dict[str, float]:
    """Mean and standard deviation over ten splits; empty for networks other than Inception."""
    if samples.classify is None or len(samples.fake) < 10:
        return {}
    mean, deviation = measures.inception_score(samples.classify(samples.fake))
    return {"IS": mean, "IS_deviation": deviation}


@METRICS.register("precision_recall")
def precision_recall(samples: Samples, *, k: Positive = 3) -> dict[str, float]:
    """Improved precision and recall; empty where a set has k samples or fewer.

    Args:
        k: a sample's neighbourhood reaches to its k-th neighbour.
    """
    if min(len(samples.fake), len(samples.real)) <= k:
        return {}
    return measures.precision_recall(samples.reference, samples.fake, k)


@METRICS.register("density_coverage")
def density_coverage(samples: Samples, *, k: Positive = 5) -> dict[str, float]:
    """Density and coverage; empty where a set has k samples or fewer.

    Args:
        k: a sample's neighbourhood reaches to its k-th neighbour.
    """
    if min(len(samples.fake), len(samples.real)) <= k:
        return {}
    return measures.density_coverage(samples.reference, samples.fake, k)


@METRICS.register("memorisation")
def memorisation(samples: Samples) -> dict[str, float]:
    """The memorisation rate of the samples and that of real images which were not trained on: the
    held-out images or, without any, the training images, each of them left out."""
    if samples.training is None:
        return {}
    rate = {"memorised": measures.memorisation_rate(samples.fake, samples.training)}
    if samples.by_chance is None:
        return rate | {"memorised_left_out": samples.training.left_out_rate}
    return rate | {"memorised_by_chance": samples.by_chance}


@METRICS.register("leak")
def leak(samples: Samples) -> dict[str, float]:
    """Shares of samples with leaked augmentation: any, and by kind; and any of the real images."""
    if samples.leaked is None or samples.leaked_real is None:
        return {}
    square, border = samples.leaked.double().mean(0).tolist()
    either, by_chance = (
        marks.any(1).double().mean().item() for marks in (samples.leaked, samples.leaked_real)
    )
    return {
        "leaked": either,
        "leaked_by_chance": by_chance,
        "leaked_square": square,
        "leaked_border": border,
    }
