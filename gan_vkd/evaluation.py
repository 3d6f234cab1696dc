"""Samples to clean-fid's distances (Parmar, Zhang and Zhu, CVPR 2022) and what FID does not show.

The distances are called FID and KID on Inception's features alone, with clean-fid's mode where it
is not "clean". On any other network's features the same Frechet and kernel distances are
computed by the same code of clean-fid, and are called FD(network) and KD(network).
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cleanfid import fid as cleanfid
from cleanfid.downloads_helper import inception_url
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import Tensor

from gan_vkd import ranks
from gan_vkd.checkpoint import digest
from gan_vkd.config import INCEPTION, DataSettings, NetworkSettings, Settings
from gan_vkd.data import ImageSet, load_heldout_set, load_training_set, to_uint8
from gan_vkd.errors import SettingsError, VkdError, one_line
from gan_vkd.features import compute_once, teacher_facts
from gan_vkd.measures import (
    Neighbourhoods,
    density_coverage,
    inception_score,
    memorisation_rate,
    nearest,
    precision_recall,
)
from gan_vkd.models.biggan import Generator
from gan_vkd.teachers import load_teacher

NEIGHBOURS = 5  # of density and coverage, the most that a measure needs
INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"


@dataclass(frozen=True)
class Extractor:
    """A feature network in clean-fid's convention: (B, 3, H, W) in [0, 255] -> (B, d).

    resize: maps one (H, W, 3) array to the network's input; None: images go in as they are.
    classify: features (N, d) to class probabilities (N, C), where the Inception score is to be had.
    facts, weights: what its features depend on, the key under which they are kept.
    """

    name: str
    model: Callable[[Tensor], Tensor]
    device: str
    resize: Callable[[np.ndarray], np.ndarray] | None
    facts: dict[str, Any]
    weights: dict[str, Tensor]
    classify: Callable[[np.ndarray], np.ndarray] | None = None

    @cached_property
    def identity(self) -> str:
        """The first digits of a digest of its weights and of how it is read."""
        state = {name: value.detach().cpu() for name, value in self.weights.items()}
        return digest(json.dumps(self.facts, sort_keys=True), state)[:12]

    @property
    def frechet_name(self) -> str:
        return self._called("FID", "FD")

    @property
    def kernel_name(self) -> str:
        return self._called("KID", "KD")

    def _called(self, on_inception: str, elsewhere: str) -> str:
        mode = INCEPTION.get(self.name)
        if mode is None:
            return f"{elsewhere}({self.name})"
        return on_inception if mode == "clean" else f"{on_inception}({mode})"

    def features(self, images: Tensor, batch_size: int) -> np.ndarray:
        """uint8 images (N, 3, H, W) -> (N, d), as clean-fid computes them from lossless files."""
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            parts = iter(images.cpu().split(batch_size))
            ahead = [pool.map(self._resized, part) for part in islice(parts, 2)]
            batches = []
            while ahead:
                batch = torch.stack(list(ahead.pop(0)))
                ahead += [pool.map(self._resized, part) for part in islice(parts, 1)]
                batches.append(cleanfid.get_batch_features(batch, self.model, self.device))
        return np.concatenate(batches)

    def _resized(self, image: Tensor) -> Tensor:
        if self.resize is None:
            return image.float()
        resized = self.resize(image.permute(1, 2, 0).numpy())
        return torch.from_numpy(resized).permute(2, 0, 1).float()

    def features_once(self, data: ImageSet, batch_size: int, folder: Path | None) -> np.ndarray:
        """The features of a whole set, from `folder` where they are kept."""

        def facts() -> dict[str, Any]:
            return {"data": data.fingerprint(), "judge": self.name, **self.facts}

        def compute(rows: Tensor) -> Tensor:
            return torch.from_numpy(self.features(data.images[rows], batch_size))

        return compute_once(compute, len(data), folder, facts, self.weights).numpy()


def make_extractor(settings: NetworkSettings, resolution: int, device: str) -> Extractor:
    """The evaluation's feature network.

    Raises:
        VkdError: weights that are not to be had, with what to do.
    """
    if settings.name in INCEPTION:
        mode = INCEPTION[settings.name]
        inception = _inception(settings.weights, device, resize_inside=mode == "legacy_tensorflow")
        return Extractor(
            settings.name,
            inception,
            device,
            build_resizer(mode),
            {"resize": mode},
            inception.state_dict(),
            partial(_classify, inception) if hasattr(inception.base, "output") else None,
        )
    teacher = load_teacher(settings, resolution, device)

    def model(images: Tensor) -> Tensor:
        return teacher(images / 127.5 - 1)

    return Extractor(
        settings.name, model, device, None, teacher_facts(teacher), teacher.state_dict()
    )


def _inception(weights: str | None, device: str, resize_inside: bool) -> InceptionV3W:
    """The published file and no other: it is a program (TorchScript), and FID is defined by it."""
    path = _fetch_inception() if weights is None else Path(weights).expanduser()
    path = path / INCEPTION_FILE if path.is_dir() else path
    if not path.is_file():
        raise VkdError(f"{path}: no such file (Inception's weights)")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise VkdError(f"{path}: cannot be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != INCEPTION_SHA256:
        raise VkdError(
            f"{path}: damaged, or not the published {INCEPTION_FILE}: its SHA-256 is not "
            f"{INCEPTION_SHA256}"
        )
    with tempfile.TemporaryDirectory() as folder:  # what was checked is what is loaded
        (Path(folder) / INCEPTION_FILE).write_bytes(content)
        return InceptionV3W(folder, False, resize_inside).to(device).eval()


def _fetch_inception() -> Path:
    path = Path(torch.hub.get_dir(), "checkpoints", INCEPTION_FILE)
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                inception_url, str(path), hash_prefix=INCEPTION_SHA256, progress=False
            )
        except Exception as error:  # urllib, ssl, hash mismatch: all mean no weights
            reason = one_line(error)
            raise VkdError(
                f"Inception's weights could not be fetched from {inception_url} ({reason}); give a "
                f"local {INCEPTION_FILE} (--inception PATH or evaluate.features.weights), or "
                "evaluate on another network's features, e.g. evaluate.features.name=cifar_resnet20"
            ) from None
    return path


@torch.no_grad()
def _classify(inception: InceptionV3W, features: np.ndarray) -> np.ndarray:
    """Features (N, 2048) -> Inception's probabilities (N, 1008), by its own last layer."""
    device = next(inception.parameters()).device
    logits = inception.base.output(torch.from_numpy(features).float().to(device))
    return logits.softmax(1).double().cpu().numpy()


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


@torch.no_grad()
def draw_samples(
    generator: Generator,
    shares: list[float],
    count: int,
    batch_size: int,
    seed: int,
    part: slice = slice(None),
) -> Tensor:
    """uint8 samples (count, 3, R, R) on the CPU, or a part of them.

    Latents and labels come from the seed alone, drawn on the CPU: the same on every device. Labels
    follow `shares`, the frequencies of the training set's classes.
    """
    source = torch.Generator().manual_seed(seed)
    device = next(generator.parameters()).device
    weights = torch.tensor(shares, dtype=torch.float64)
    labels = torch.multinomial(weights, count, replacement=True, generator=source)
    latents = torch.randn(count, generator.z_dim, generator=source)
    batches = zip(latents[part].split(batch_size), labels[part].split(batch_size), strict=True)
    images = [to_uint8(generator(z.to(device), y.to(device))).cpu() for z, y in batches]
    return torch.cat(images)


class Evaluator:
    """Measures of a generator's samples against one reference set and the training set.

    The features of both sets are computed once (and kept, where the settings name a folder).

    Args:
        settings: of the run.
        device: where the judge runs.
        reference: what samples are compared with; None: as the settings say.
        training: what samples may be copies of; None: as the settings say.
    """

    def __init__(
        self,
        settings: Settings,
        device: str,
        reference: ImageSet | None = None,
        training: ImageSet | None = None,
    ) -> None:
        self.settings = s = settings.evaluate
        reference = reference or load_reference(s.reference, settings.data)
        if len(reference) < 2:
            raise VkdError(f"evaluate.reference = {s.reference}: needs two images")
        self.training = training or _training_set(settings.data)
        self.known: Neighbourhoods | None = None
        self.by_chance: float | None = None
        with isolated_randomness(s.seed):
            self.extractor = make_extractor(s.features, settings.data.resolution, device)
            if not ranks.is_first():
                return  # that alone measures; the others only help with the samples' features
            once = partial(
                self.extractor.features_once, batch_size=s.batch_size, folder=settings.cache_folder
            )
            self.reference = Neighbourhoods(once(reference))
            if self.training is not None and len(self.training) > 1:
                same = s.reference == "train"
                self.known = self.reference if same else Neighbourhoods(once(self.training))
                if s.reference == "heldout":
                    self.by_chance = memorisation_rate(self.reference.features, self.known)

    def __call__(self, generator: Generator, shares: list[float]) -> dict[str, Any]:
        """Measures of `num_samples` samples, with how they were taken.

        Frechet and kernel distance, improved precision and recall, density and coverage, the
        Inception score (mean and standard deviation) on Inception, the share of memorised samples
        and, beside it, that of the held-out images, which nobody has copied.
        """
        s = self.settings
        with isolated_randomness(s.seed):
            features = self._features(generator, shares, s.num_samples)
        return ranks.from_first(lambda: self._measure(features))

    def _measure(self, features: np.ndarray) -> dict[str, Any]:
        s, real = self.settings, self.reference.features
        with isolated_randomness(s.seed):
            result: dict[str, Any] = {
                "features": s.features.name,
                "judge": self.extractor.identity,
                "reference": s.reference,
                "reference_images": len(real),
                "num_samples": s.num_samples,
                "sample_seed": s.seed,
                self.extractor.frechet_name: frechet_distance(features, real),
                self.extractor.kernel_name: cleanfid.kernel_distance(real, features),
            }
        if self.extractor.classify is not None and len(features) >= 10:
            score = inception_score(self.extractor.classify(features))
            result |= dict(zip(("IS", "IS_deviation"), score, strict=True))
        if min(len(features), len(real)) > NEIGHBOURS:
            result |= precision_recall(self.reference, features)
            result |= density_coverage(self.reference, features)
        if self.known is not None:
            result["memorised"] = memorisation_rate(features, self.known)
        if self.by_chance is not None:
            result["memorised_by_chance"] = self.by_chance
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
            images = draw_samples(generator, shares, count, count, self.settings.seed)
            features = self.extractor.features(images, count)
        rows, _ = nearest(features, self.known.features, NEIGHBOURS)
        pairs = zip(images, rows, strict=True)
        return torch.cat([torch.cat([x[None], self.training.images[r]]) for x, r in pairs])

    def _features(self, generator: Generator, shares: list[float], count: int) -> np.ndarray:
        s = self.settings
        part = ranks.own_part(count)
        images = draw_samples(generator, shares, count, s.batch_size, s.seed, part)
        features = self.extractor.features(images, s.batch_size)
        features = np.concatenate(ranks.all_parts(features))
        if not np.isfinite(features).all():
            raise VkdError("evaluation: the samples' features are not finite")
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
            "more evaluate.num_samples or other evaluate.features, or pass over it by --resume "
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
