"""Samples to the distances of clean-fid (Parmar et al., CVPR 2022) and what FID does not show."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cleanfid import fid as cleanfid
from torch import Tensor

from gan_vkd.data.image_set import ImageSet
from gan_vkd.data.sets import load_heldout_set, load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.evaluation.judge import Extractor, make_extractor
from gan_vkd.evaluation.measures import Neighbourhoods, memorisation_rate, nearest
from gan_vkd.evaluation.metrics import METRICS, Samples
from gan_vkd.evaluation.settings import EvaluateSettings
from gan_vkd.networks.interface import Generator
from gan_vkd.networks.sampling import draw_samples
from gan_vkd.runtime import ranks
from gan_vkd.runtime.errors import SettingsError, VkdError, one_line

NEIGHBOURS = 5  # training images beside a sample


def load_reference(name: str, data: DataSettings) -> ImageSet:
    """The images that samples are compared with: `heldout`, `train`, or a folder or zip.

    Raises:
        VkdError: no such set.
    """
    if name == "train":
        return load_training_set(data)
    if name == "heldout":
        heldout = load_heldout_set(data)
        if heldout is None:
            raise SettingsError(
                "evaluate.reference = heldout, but the data has no held-out set: set data.heldout "
                "to a folder or zip, or evaluate.reference=train"
            )
        return heldout
    changes = {"source": name, "fraction": None, "num_images": None}
    return load_training_set(data.model_copy(update=changes))


class Evaluator:
    """Measures of a generator's samples against one reference set and the training set.

    The first judge takes all of them, the further ones the distances alone. The features of both
    sets are computed once a judge (and kept, where the settings name a folder).

    Args:
        settings: of the evaluation.
        data: what was trained on.
        device: where the judges run.
        reference: what samples are compared with; None: as the settings say.
        training: what samples may be copies of; None: as the settings say.
        cache: a folder for features of the reference and the training images.
    """

    def __init__(
        self,
        settings: EvaluateSettings,
        data: DataSettings,
        device: str,
        reference: ImageSet | None = None,
        training: ImageSet | None = None,
        cache: Path | None = None,
    ) -> None:
        self.settings, self.cache = settings, cache
        s = settings
        reference = reference or load_reference(s.reference, data)
        if len(reference) < 2:
            raise VkdError(f"evaluate.reference = {s.reference}: needs two images")
        self.training = training or _training_set(data)
        self.known: Neighbourhoods | None = None
        self.by_chance: float | None = None
        with isolated_randomness(s.seed):
            self.judges = [make_extractor(network, data.resolution, device) for network in s.judges]
            self.extractor = self.judges[0]
            names = [judge.frechet_name for judge in self.judges]
            if twice := [name for name in names if names.count(name) > 1]:
                raise SettingsError(f"evaluate.also: two judges give {twice[0]}; leave one out")
            if not ranks.is_first():
                return  # that alone measures; the others only help with the samples' features
            self.real = [self._once(judge, reference) for judge in self.judges]
            self.reference = Neighbourhoods(self.real[0])
            if self.training is not None and len(self.training) > 1:
                self.known = self.reference
                if s.reference != "train":
                    self.known = Neighbourhoods(self._once(self.extractor, self.training))
                if s.reference == "heldout":
                    self.by_chance = memorisation_rate(self.reference.features, self.known)

    def _once(self, judge: Extractor, images: ImageSet) -> np.ndarray:
        return judge.features_once(images, self.settings.batch_size, self.cache)

    def __call__(self, generator: Generator, shares: list[float]) -> dict[str, Any]:
        """Measures of `num_samples` samples, with how they were taken (evaluation/record.py).

        Frechet and kernel distance by every judge, and the metrics of the settings by the first.

        Args:
            generator: as it is sampled (gan_vkd/networks/standing.py).
            shares: frequencies of the classes.
        """
        s = self.settings
        with isolated_randomness(s.seed):
            own, together = ranks.own_part(s.num_samples // s.inseparable), s.inseparable
            part = slice(own.start * together, own.stop * together)
            images = draw_samples(generator, shares, s.num_samples, s.batch_size, s.seed, part)
            features = [self._features(judge, images) for judge in self.judges]
        return ranks.from_first(lambda: self._measure(features))

    def _measure(self, samples: list[np.ndarray]) -> dict[str, Any]:
        """Of the samples' features by each judge."""
        s, judges = self.settings, []
        for judge, fake, known in zip(self.judges, samples, self.real, strict=True):
            with isolated_randomness(s.seed):
                frechet = frechet_distance(fake, known)
                kernel = cleanfid.kernel_distance(known, fake)
            judges.append(judge.described | {"frechet": frechet, "kernel": kernel})
        result: dict[str, Any] = {
            "judges": judges,
            "reference": s.reference,
            "reference_images": len(self.real[0]),
            "num_samples": s.num_samples,
            "sample_seed": s.seed,
            "batch_norm": s.batch_norm,
        }
        by_first = Samples(
            samples[0], self.reference, self.known, self.by_chance, self.extractor.classify
        )
        for metric in s.metrics:
            result |= METRICS.make(metric.chosen, by_first)
        return result

    def neighbours(
        self, generator: Generator, shares: list[float], count: int = 10
    ) -> Tensor | None:
        """uint8 images (count * 6, 3, R, R): each sample, then its five nearest training images.

        None where there are not that many.
        """
        if self.training is None or self.known is None or len(self.known.features) < NEIGHBOURS:
            return None
        with isolated_randomness(self.settings.seed):
            whole = max(count, self.settings.batch_size)
            images = draw_samples(generator, shares, whole, whole, self.settings.seed)[:count]
            features = self.extractor.features(images, count)
        rows, _ = nearest(features, self.known.features, NEIGHBOURS)
        pairs = zip(images, rows, strict=True)
        return torch.cat([torch.cat([x[None], self.training.images[r]]) for x, r in pairs])

    def _features(self, judge: Extractor, images: Tensor) -> np.ndarray:
        """Of all ranks' samples."""
        features = judge.features(images, self.settings.batch_size)
        features = np.concatenate(ranks.all_parts(features))
        if not np.isfinite(features).all():
            raise VkdError(f"evaluation: the samples' features by {judge.name} are not finite")
        return features


def _training_set(data: DataSettings) -> ImageSet | None:
    """The training set, or a word that nothing can be said of copies: others' runs come without."""
    try:
        return load_training_set(data)
    except VkdError as error:
        print(f"no memorisation rate, since the training set is missing: {error}")
        return None


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """clean-fid's distance between the Gaussians fitted to two sets of features (N, d)."""
    try:
        return float(cleanfid.fid_from_feats(features, reference))
    except ValueError as error:  # the root of a product that is far from positive
        raise VkdError(
            f"evaluation: the distance cannot be computed ({one_line(error)}); train anew with "
            "more evaluate.num_samples or by another judge, or pass over it by --resume "
            "evaluate.every=N"
        ) from None


@contextmanager
def isolated_randomness(seed: int) -> Iterator[None]:
    """Seeds torch's and NumPy's generators, and puts them back as they were afterwards."""
    numpy_state = np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
