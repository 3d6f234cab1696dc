"""Samples to clean-fid's distances (Parmar, Zhang and Zhu, CVPR 2022).

The features are Inception's, and the distances are called FID and KID, only where Inception's
weights are at hand. On any other network's features the same Frechet and kernel distances are
computed by the same code of clean-fid, and are called FD(network) and KD(network).
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cleanfid import fid as cleanfid
from cleanfid.features import feature_extractor
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gan_vkd.config import DataSettings, NetworkSettings, Settings
from gan_vkd.data import ImageSet, load_heldout_set, load_training_set, to_uint8
from gan_vkd.errors import SettingsError, VkdError
from gan_vkd.models.biggan import Generator
from gan_vkd.teachers import load_teacher

INCEPTION_FILE = "inception-2015-12-05.pt"


@dataclass(frozen=True)
class Extractor:
    """A feature network in clean-fid's convention: (B, 3, H, W) in [0, 255] -> (B, d).

    `resize` maps one (H, W, 3) array to the network's input; None: images go in as they are.
    """

    name: str
    model: Callable[[Tensor], Tensor]
    device: str
    resize: Callable[[np.ndarray], np.ndarray] | None

    @property
    def frechet_name(self) -> str:
        return "FID" if self.name == "inception" else f"FD({self.name})"

    @property
    def kernel_name(self) -> str:
        return "KID" if self.name == "inception" else f"KD({self.name})"

    def features(self, images: Tensor, batch_size: int) -> np.ndarray:
        """uint8 images (N, 3, H, W) -> (N, d), as clean-fid computes them from lossless files."""
        workers = min(8, torch.get_num_threads()) if self.resize and len(images) > 500 else 0
        loader = DataLoader(_Resized(images, self.resize), batch_size, num_workers=workers)
        batches = [cleanfid.get_batch_features(b, self.model, self.device) for b in loader]
        return np.concatenate(batches)


class _Resized(Dataset[Tensor]):
    def __init__(self, images: Tensor, resize: Callable[[np.ndarray], np.ndarray] | None) -> None:
        self.images, self.resize = images.cpu(), resize

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image = self.images[index]
        if self.resize is None:
            return image.float()
        return torch.from_numpy(self.resize(image.permute(1, 2, 0).numpy())).permute(2, 0, 1)


def make_extractor(settings: NetworkSettings, resolution: int, device: str) -> Extractor:
    """The evaluation's feature network.

    Raises:
        VkdError: weights that are not to be had, with what to do.
    """
    if settings.name == "inception":
        return Extractor(
            "inception", _inception(settings.weights, device), device, build_resizer("clean")
        )
    teacher = load_teacher(settings, resolution, device)

    def model(images: Tensor) -> Tensor:
        return teacher(images / 127.5 - 1)

    return Extractor(settings.name, model, device, None)


def _inception(weights: str | None, device: str) -> Callable[[Tensor], Tensor]:
    if weights is None:
        try:
            model = feature_extractor(device=torch.device(device), use_dataparallel=False)
        except Exception as error:  # requests, urllib, torch: all mean no weights
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise VkdError(
                f"Inception's weights could not be fetched ({reason}); give a local "
                f"{INCEPTION_FILE} (--inception PATH or evaluate.features.weights), or evaluate on "
                "another network's features, e.g. evaluate.features.name=cifar_resnet20"
            ) from None
        return model
    path = Path(weights).expanduser()
    path = path / INCEPTION_FILE if path.is_dir() else path
    if not path.is_file():
        raise VkdError(f"{path}: no such file (Inception's weights)")
    try:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / INCEPTION_FILE).symlink_to(path.resolve())
            return InceptionV3W(folder, download=False).to(device)
    except (RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise VkdError(f"{path}: not the TorchScript Inception of clean-fid ({reason})") from None


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
    generator: Generator, shares: list[float], count: int, batch_size: int, seed: int
) -> Tensor:
    """uint8 samples (count, 3, R, R) on the CPU.

    Latents and labels come from the seed alone, drawn on the CPU: the same on every device. Labels
    follow `shares`, the frequencies of the training set's classes.
    """
    source = torch.Generator().manual_seed(seed)
    device = next(generator.parameters()).device
    weights = torch.tensor(shares, dtype=torch.float64)
    labels = torch.multinomial(weights, count, replacement=True, generator=source)
    latents = torch.randn(count, generator.z_dim, generator=source)
    batches = zip(latents.split(batch_size), labels.split(batch_size), strict=True)
    images = [to_uint8(generator(z.to(device), y.to(device))).cpu() for z, y in batches]
    return torch.cat(images)


class Evaluator:
    """Distances of a generator's samples to one reference set, whose features are computed once."""

    def __init__(self, settings: Settings, device: str, reference: ImageSet | None = None) -> None:
        self.settings = settings.evaluate
        self.extractor = make_extractor(self.settings.features, settings.data.resolution, device)
        reference = reference or load_reference(self.settings.reference, settings.data)
        if len(reference) < 2:
            raise VkdError(f"evaluate.reference = {self.settings.reference}: needs two images")
        with isolated_randomness(self.settings.seed):
            self.reference = self.extractor.features(reference.images, self.settings.batch_size)

    def __call__(self, generator: Generator, shares: list[float]) -> dict[str, Any]:
        """Frechet and kernel distance of `num_samples` samples, with how they were measured."""
        s = self.settings
        with isolated_randomness(s.seed):
            images = draw_samples(generator, shares, s.num_samples, s.batch_size, s.seed)
            features = self.extractor.features(images, s.batch_size)
            if not np.isfinite(features).all():
                raise VkdError("evaluation: the samples' features are not finite")
            return {
                "features": s.features.name,
                "reference": s.reference,
                "reference_images": len(self.reference),
                "num_samples": s.num_samples,
                "sample_seed": s.seed,
                self.extractor.frechet_name: frechet_distance(features, self.reference),
                self.extractor.kernel_name: cleanfid.kernel_distance(self.reference, features),
            }


def frechet_distance(features: np.ndarray, reference: np.ndarray) -> float:
    """clean-fid's distance between the Gaussians fitted to two sets of features (N, d)."""
    return float(cleanfid.fid_from_feats(features, reference))


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
