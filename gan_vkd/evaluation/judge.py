"""Judges: feature extractors of an evaluation, and the names of their distances.

The distances are called FID and KID on Inception's features only, with clean-fid's mode where it is
not "clean". On any other network's features the same Frechet and kernel distances are called
FD(network) and KD(network), or FD(network@size) where the input size is not the network's own.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cleanfid.inception_torchscript import InceptionV3W
from torch import Tensor

from gan_vkd.data.image_set import ImageSet
from gan_vkd.distill import Teacher
from gan_vkd.distill.channels import WHITE, as_map, as_rgb
from gan_vkd.evaluation.settings import INCEPTION
from gan_vkd.runtime.bars import on_terminal, progress_bar
from gan_vkd.runtime.checkpoint import digest
from gan_vkd.runtime.errors import VkdError, one_line
from gan_vkd.runtime.files import user_path
from gan_vkd.teachers.features import compute_once, teacher_facts
from gan_vkd.teachers.frozen import load_teacher
from gan_vkd.teachers.settings import NetworkSettings

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"


@dataclass(frozen=True)
class Extractor:
    """A feature extractor in clean-fid's convention: (B, 3, H, W) in [0, 255] -> (B, d).

    classify: features (N, d) to class probabilities (N, C); None where there is no Inception score.
    facts, weights: everything that its features depend on; the key of cached features. background:
    colour in [0, 1] that transparent images are put on.
    """

    name: str
    model: Callable[[Tensor], Tensor]
    device: str
    facts: dict[str, Any]
    weights: dict[str, Tensor]
    classify: Callable[[np.ndarray], np.ndarray] | None = None
    background: Sequence[float] = WHITE

    @cached_property
    def identity(self) -> str:
        """The first digits of a digest of its weights and facts."""
        state = {name: value.detach().cpu() for name, value in self.weights.items()}
        return digest(json.dumps(self.facts, sort_keys=True), state)[:12]

    @property
    def described(self) -> dict[str, str]:
        """Its name and identity, and the names of its distances."""
        return {
            "name": self.name,
            "identity": self.identity,
            "frechet_name": self.frechet_name,
            "kernel_name": self.kernel_name,
        }

    @property
    def frechet_name(self) -> str:
        return self._distance_name("FID", "FD")

    @property
    def kernel_name(self) -> str:
        return self._distance_name("KID", "KD")

    def _distance_name(self, on_inception: str, otherwise: str) -> str:
        mode = INCEPTION.get(self.name)
        if mode is None:
            return f"{otherwise}({self.name})"
        return on_inception if mode == "clean" else f"{on_inception}({mode})"

    @torch.no_grad()
    def features(self, images: Tensor, batch_size: int) -> np.ndarray:
        """uint8 images (N, C, H, W) on any device -> (N, d), in float32 on the judge's device.

        They are those that clean-fid computes from lossless files, of grey and transparent images
        from files of their RGB (`as_rgb`).
        """
        parts = progress_bar(images.split(batch_size), f"features by {self.name}")
        batches = (self._rgb(batch.to(self.device)) for batch in parts)
        return torch.cat([self.model(batch) for batch in batches]).cpu().numpy()

    def _rgb(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> whole numbers (B, 3, H, W) in [0, 255], in float32."""
        if images.shape[1] == 3:
            return images.float()
        background = as_map(self.background).to(self.device)
        return (as_rgb(images.float() / 255, background) * 255).round()

    def features_once(self, data: ImageSet, batch_size: int, folder: Path | None) -> np.ndarray:
        """The features (N, d) of a whole set, cached in `folder`; None: no cache."""

        def facts() -> dict[str, Any]:
            key = {"data": data.fingerprint(), "judge": self.name, **self.facts}
            white = tuple(self.background) == WHITE
            return key if white else key | {"background": list(self.background)}

        def compute(rows: Tensor) -> Tensor:
            bar = progress_bar(rows.split(batch_size), f"reference features by {self.name}")
            parts = [self.features(data.images[part], batch_size) for part in bar]
            return torch.from_numpy(np.concatenate(parts))

        return compute_once(compute, len(data), folder, facts, self.weights).numpy()


def resized(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 255] -> (B, 3, 299, 299), as clean-fid resizes by Pillow.

    Bicubic with antialiasing in float32, without rounding to integers.
    """
    images = F.interpolate(images, (299, 299), mode="bicubic", antialias=True)
    return images.clamp(0, 255)


def make_extractor(
    settings: NetworkSettings,
    resolution: int | tuple[int, int],
    device: str,
    background: Sequence[float] = WHITE,
) -> Extractor:
    """Builds a judge from its settings.

    Args:
        settings: of the network.
        resolution: side, or height and width, of the images.
        device: where it runs.
        background: colour in [0, 1] that transparent images are put on.

    Raises:
        VkdError: weights that are missing, damaged or cannot be fetched.
    """
    if settings.name in INCEPTION:
        mode = INCEPTION[settings.name]
        inception = _inception(settings.weights, device, resize_inside=mode == "legacy_tensorflow")
        return Extractor(
            settings.name,
            inception if mode != "clean" else lambda images: inception(resized(images)),
            device,
            {"resize": mode},
            inception.state_dict(),
            partial(_classify, inception) if hasattr(inception.base, "output") else None,
            background,
        )
    teacher = load_teacher(settings, resolution, device)

    def model(images: Tensor) -> Tensor:
        return teacher(images / 127.5 - 1)

    name = _sized_name(settings, teacher)
    facts, weights = teacher_facts(teacher), teacher.state_dict()
    return Extractor(name, model, device, facts, weights, background=background)


def _sized_name(settings: NetworkSettings, teacher: Teacher) -> str:
    """The network's name, with the input size where that is not the network's own."""
    own = None
    if settings.name.startswith("timm/"):
        from timm.data.config import resolve_model_data_config

        own = resolve_model_data_config(teacher.network)["input_size"][-1]
    sized = settings.size is not None and settings.size != own
    return f"{settings.name}@{settings.size}" if sized else settings.name


def _inception(weights: str | None, device: str, resize_inside: bool) -> InceptionV3W:
    """Loads the published file only: it is a program (TorchScript), and FID is defined by it."""
    path = _fetch_inception() if weights is None else user_path(weights)
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
    with tempfile.TemporaryDirectory() as folder:  # load the bytes that were checked
        (Path(folder) / INCEPTION_FILE).write_bytes(content)
        return InceptionV3W(folder, False, resize_inside).to(device).eval()


def inception_file() -> Path:
    """Where Inception's weights are kept once they have been fetched."""
    return Path(torch.hub.get_dir(), "checkpoints", INCEPTION_FILE)


def _fetch_inception() -> Path:
    from cleanfid.downloads_helper import inception_url

    path = inception_file()
    if not path.exists():
        try:
            print(f"fetching {inception_url}")
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                inception_url, str(path), hash_prefix=INCEPTION_SHA256, progress=on_terminal()
            )
        except Exception as error:  # urllib, ssl, hash mismatch: all mean no weights
            reason = one_line(error)
            raise VkdError(
                f"Inception's weights could not be fetched from {inception_url} ({reason}); set a "
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
