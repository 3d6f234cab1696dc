"""Evaluation of a generator: distances of clean-fid (Parmar et al., CVPR 2022) and metrics."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gan_vkd.data.image_set import ImageSet
from gan_vkd.data.sets import load_heldout_set, load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.evaluation.distances import Gaussian, frechet_distance, kernel_distance
from gan_vkd.evaluation.few import warnings
from gan_vkd.evaluation.judge import Extractor, make_extractor
from gan_vkd.evaluation.leak import leaked
from gan_vkd.evaluation.measures import Neighbourhoods, memorisation_rate, nearest
from gan_vkd.evaluation.metrics import METRICS, Samples
from gan_vkd.evaluation.settings import EvaluateSettings
from gan_vkd.networks.interface import Generator
from gan_vkd.networks.sampling import draw_samples
from gan_vkd.runtime import ranks
from gan_vkd.runtime.errors import SettingsError, VkdError

NEIGHBOURS = 5  # training images shown beside each sample


def load_reference(name: str, data: DataSettings, cache: Path | None = None) -> ImageSet:
    """Loads the set that samples are compared with: `heldout`, `train`, or a folder or zip.

    cache: for a file with its pixels if memory does not hold them.

    Raises:
        VkdError: the set does not exist.
    """
    if name == "train":
        return load_training_set(data, cache)
    if name == "heldout":
        heldout = load_heldout_set(data, cache)
        if heldout is None:
            raise SettingsError(
                "evaluate.reference = heldout, but the data has no held-out set: set data.heldout "
                "to a folder or zip, or evaluate.reference=train"
            )
        return heldout
    changes = {"source": name, "fraction": None, "num_images": None}
    return load_training_set(data.model_copy(update=changes), cache)


class Evaluator:
    """Measures a generator's samples against one reference set and the training set.

    The first judge computes distances and metrics, the further judges distances only. Each judge
    computes the features of both sets once, and reads them from `cache` where they are there; what
    the distances need of the reference is computed once as well.

    Args:
        settings: of the evaluation.
        data: settings of the training data, with its number of channels.
        device: where the judges run, and their features are compared.
        reference: the set that samples are compared with; None: loaded by the settings.
        training: the set that samples may be copies of; None: loaded by the settings.
        cache: folder for the features of reference and training images; None: no cache.

    Raises:
        SettingsError: the settings name no judge. VkdError: fewer than two reference images.
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
        self.settings, self.device, self.cache = settings, device, cache
        s = settings
        if not s.judges:
            raise SettingsError(
                "evaluate.features = null: no judge; set evaluate.features.name=NAME, or "
                "evaluate.features={name: inception, weights: FILE} for FID"
            )
        reference = reference or load_reference(s.reference, data, cache)
        if len(reference) == 1:  # the least that distances are defined for: a Gaussian of no spread
            reference = reference.subset([0, 0])
        self.training = training or _training_set(data, cache)
        self.originals: Neighbourhoods | None = None
        self.by_chance: float | None = None
        with isolated_randomness(s.seed):
            self.judges = [
                make_extractor(network, data.resolution, device, data.backdrop)
                for network in s.judges
            ]
            self.extractor = self.judges[0]
            names = [judge.frechet_name for judge in self.judges]
            if duplicates := [name for name in names if names.count(name) > 1]:
                raise SettingsError(f"evaluate.also: two judges give {duplicates[0]}; remove one")
            if not ranks.is_first():
                return  # the other ranks only extract features of their samples
            self.real = [self._cached_features(judge, reference) for judge in self.judges]
            self.gaussians = [Gaussian.of(features, device) for features in self.real]
            self.reference = Neighbourhoods(self.real[0], device)
            self.leaked_real = leaked(reference.images)
            if self.training is not None and len(self.training) > 1:
                self.originals = self.reference
                if s.reference != "train":
                    self.originals = Neighbourhoods(
                        self._cached_features(self.extractor, self.training), device
                    )
                if s.reference == "heldout":
                    self.by_chance = memorisation_rate(self.reference.features, self.originals)

    def _cached_features(self, judge: Extractor, images: ImageSet) -> np.ndarray:
        return judge.features_once(images, self.settings.batch_size, self.cache)

    def __call__(self, generator: Generator, shares: list[float]) -> dict[str, Any]:
        """Returns the record of an evaluation of `num_samples` samples (evaluation/record.py).

        Frechet and kernel distance by every judge, and the metrics of the settings by the first.
        The noise of each sample is drawn, as in the published evaluation of StyleGAN2.

        Args:
            generator: prepared for sampling (gan_vkd/networks/standing.py).
            shares: frequencies of the classes.
        """
        s = self.settings
        with isolated_randomness(s.seed):
            own, together = ranks.own_part(s.num_samples // s.inseparable), s.inseparable
            part = slice(own.start * together, own.stop * together)
            with generator.drawn_noise():
                images = draw_samples(generator, shares, s.num_samples, s.batch_size, s.seed, part)
            features = [self._features(judge, images) for judge in self.judges]
            leaks = torch.cat(ranks.all_parts(leaked(images)))
        return ranks.from_first(lambda: self._measure(features, leaks))

    def _measure(self, samples: list[np.ndarray], leaks: Tensor) -> dict[str, Any]:
        """Returns the record, given the samples' features (N, d) by each judge and their leaks."""
        s, judges = self.settings, []
        for judge, fake, real, known in zip(
            self.judges, samples, self.real, self.gaussians, strict=True
        ):
            frechet = frechet_distance(fake, known)
            kernel = kernel_distance(fake, real, s.seed, self.device)
            judges.append(judge.described | {"frechet": frechet, "kernel": kernel})
        result: dict[str, Any] = {
            "judges": judges,
            "reference": s.reference,
            "reference_images": len(self.real[0]),
            "num_samples": s.num_samples,
            "sample_seed": s.seed,
            "batch_norm": s.batch_norm,
        }
        if self.training is not None:
            result["training_images"] = len(self.training)
        by_first = Samples(
            samples[0], self.reference, self.originals, self.by_chance, self.extractor.classify,
            leaks, self.leaked_real,
        )  # fmt: skip
        for metric in s.metrics:
            result |= METRICS.make(metric.chosen, by_first)
        return result | {"warnings": warnings(result)}

    def neighbours(
        self, generator: Generator, shares: list[float], count: int = 10
    ) -> Tensor | None:
        """Returns `count` samples, each followed by its five nearest training images.

        uint8 images (count * 6, C, H, W); None where there are fewer than five training images.
        """
        if (
            self.training is None
            or self.originals is None
            or len(self.originals.features) < NEIGHBOURS
        ):
            return None
        with isolated_randomness(self.settings.seed):
            whole = max(count, self.settings.batch_size)
            images = draw_samples(generator, shares, whole, whole, self.settings.seed)[:count]
            features = self.extractor.features(images, count)
        rows, _ = nearest(features, self.originals, NEIGHBOURS)
        pairs = zip(images.cpu(), rows, strict=True)
        return torch.cat([torch.cat([x[None], self.training.images[r]]) for x, r in pairs])

    def _features(self, judge: Extractor, images: Tensor) -> np.ndarray:
        """Features (N, d) of the samples of all ranks."""
        features = judge.features(images, self.settings.batch_size)
        features = np.concatenate(ranks.all_parts(features))
        if not np.isfinite(features).all():
            raise VkdError(f"evaluation: the samples' features by {judge.name} are not finite")
        return features


def _training_set(data: DataSettings, cache: Path | None) -> ImageSet | None:
    """The training set, or None with a message: it may be missing where a run was copied."""
    try:
        return load_training_set(data, cache)
    except VkdError as error:
        print(f"no memorisation rate, since the training set is missing: {error}")
        return None


@contextmanager
def isolated_randomness(seed: int) -> Iterator[None]:
    """Seeds the generators of torch and NumPy, and restores their states on exit."""
    numpy_state = np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
