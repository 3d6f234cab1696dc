"""Data sets as one uint8 tensor on the training device, and the endless batches drawn from it."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gan_vkd.data.images import read_images
from gan_vkd.data.settings import WITH_TEST_SPLIT, DataSettings
from gan_vkd.runtime import ranks
from gan_vkd.runtime.errors import SettingsError, VkdError, one_line
from gan_vkd.runtime.lock import locked


@dataclass(frozen=True)
class ImageSet:
    """Labelled images.

    images: (N, 3, R, R) uint8. labels: (N,) int64. classes: the names behind the labels, [""] for
    a set without classes. names: of the images, unique and stable, what subsets are drawn by.
    """

    images: Tensor
    labels: Tensor
    classes: list[str]
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, indices: list[int]) -> "ImageSet":
        chosen = torch.tensor(indices, dtype=torch.int64)
        names = [self.names[i] for i in indices]
        return ImageSet(self.images[chosen], self.labels[chosen], self.classes, names)

    def fingerprint(self) -> str:
        """SHA-256 over pixels and labels: the key of everything computed from this set."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.cpu().numpy().tobytes())
        digest.update(self.labels.cpu().numpy().tobytes())
        return digest.hexdigest()


def load_training_set(settings: DataSettings) -> ImageSet:
    """The training images that the settings name, after the subset is drawn.

    Raises:
        SettingsError: a subset that the set cannot give, or another resolution than CIFAR's.
        VkdError: missing, damaged or unreachable data.
    """
    full = _load(settings, train=True)
    count = settings.num_images
    if settings.fraction is not None:
        count = round(settings.fraction * len(full))
    if count is None:
        return full
    if not 1 <= count <= len(full):
        raise SettingsError(f"data: asked for {count} images, {settings.source} has {len(full)}")
    return full.subset(draw_subset(full.names, full.labels.tolist(), count, settings.seed))


def load_heldout_set(settings: DataSettings) -> ImageSet | None:
    """Images that training never sees: the source's test split, a path, or None."""
    if settings.heldout is None:
        return None
    if settings.heldout == "test":
        if settings.source not in WITH_TEST_SPLIT:
            return None
        return _load(settings, train=False)
    return _load_files(Path(settings.heldout).expanduser(), settings)


def draw_subset(names: list[str], labels: list[int], count: int, seed: int) -> list[int]:
    """Indices of a stratified subset: the same for the same seed on every machine.

    Images are ranked by a hash of seed and name, so that no random generator's version matters. The
    j-th of the n images of a class stands at (j - 1/2) / n, and the first `count` over all classes
    are taken (Webster's method): classes keep their shares, and subsets of one seed are nested.
    """
    sizes, seen = Counter(labels), Counter[int]()
    place: dict[int, float] = {}
    for index in sorted(range(len(names)), key=lambda i: _rank(seed, names[i])):
        label = labels[index]
        place[index] = (seen[label] + 0.5) / sizes[label]
        seen[label] += 1
    return sorted(sorted(place, key=place.__getitem__)[:count])


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogateescape")).digest()


def _load(settings: DataSettings, train: bool) -> ImageSet:
    if settings.source in ("cifar10", "cifar100"):
        return _load_cifar(settings, train)
    if settings.source == "digits":
        return _load_digits(settings.resolution, train)
    return _load_files(Path(settings.source).expanduser(), settings)


def _load_cifar(settings: DataSettings, train: bool) -> ImageSet:
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset_class = CIFAR10 if settings.source == "cifar10" else CIFAR100
    root = Path(settings.root).expanduser()
    try:
        dataset = _at_hand_or_fetched(partial(dataset_class, str(root), train), root, settings)
    except Exception as error:  # urllib, http, tar, pickle: all mean no data
        raise VkdError(
            f"{settings.source} is not in {root} and could not be fetched ({one_line(error)}); "
            f"put torchvision's {dataset_class.base_folder} there, or set data.root"
        ) from None
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2)
    if settings.resolution != images.shape[-1]:
        raise SettingsError(f"{settings.source} has 32x32 images: set data.resolution=32")
    names = [f"{'train' if train else 'test'}/{i:05d}" for i in range(len(images))]
    return ImageSet(
        images.contiguous(), torch.tensor(dataset.targets), list(dataset.classes), names
    )


def _at_hand_or_fetched(load: Callable[..., Any], root: Path, settings: DataSettings) -> Any:
    """Of the processes that start together one fetches, and the others wait for it."""
    try:
        return load(download=False)
    except RuntimeError:
        if not settings.download:
            raise
    with locked(root, wait=True):
        return load(download=True)


def _load_digits(resolution: int, train: bool) -> ImageSet:
    """scikit-learn's 1,797 handwritten digits: 1,500 to train on, the rest held out."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    size = (resolution, resolution)
    images = [
        np.asarray(
            Image.fromarray((image * 255 / 16).astype(np.uint8)).resize(
                size, Image.Resampling.BICUBIC
            )
        )
        for image in digits.images
    ]
    labels = [int(label) for label in digits.target]
    names = [f"{i:04d}" for i in range(len(labels))]
    grey = torch.from_numpy(np.stack(images))[:, None].expand(-1, 3, -1, -1).contiguous()
    everything = ImageSet(grey, torch.tensor(labels), [str(c) for c in range(10)], names)
    chosen = draw_subset(names, labels, 1500, seed=0)
    if not train:
        chosen = sorted(set(range(len(labels))) - set(chosen))
    return everything.subset(chosen)


def _load_files(path: Path, settings: DataSettings) -> ImageSet:
    images, names, folders = read_images(path, settings.resolution, settings.damaged)
    classes = sorted(set(folders))
    index = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([index[folder] for folder in folders])
    return ImageSet(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels, classes, names
    )


def to_network(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1] -> uint8, the inverse of `to_network`."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


class Batch(NamedTuple):
    """Images (B, 3, R, R) in [-1, 1] and labels (B,), with where they come from.

    indices: (B,) in the set. flipped: (B,) bool, which ones are mirrored.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    flipped: Tensor


class Batches:
    """Endless shuffled epochs of a set that lies on the device.

    The order is a function of (seed, batch number) alone, so a resumed run needs no state of it;
    flips draw from torch's global generator. A batch may span epochs and may exceed the set. Of
    several ranks each gets its part.
    """

    def __init__(self, data: ImageSet, batch_size: int, *, flip: bool, seed: int, device: str):
        self.images, self.labels = data.images.to(device), data.labels.to(device)
        self.batch_size, self.flip, self.seed = batch_size, flip, seed
        self._orders: dict[int, Tensor] = {}

    def __call__(self, number: int) -> Batch:
        """Batch `number`, or this rank's rows of it."""
        chosen = self._indices(number * self.batch_size)[ranks.own_part(self.batch_size)]
        images = to_network(self.images[chosen])
        flipped = torch.zeros_like(chosen, dtype=torch.bool)
        if self.flip:
            drawn = ranks.own_rows(lambda n: torch.rand(n, device=images.device), len(chosen))
            flipped = drawn < 0.5
            images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        return Batch(images, self.labels[chosen], chosen, flipped)

    def random_labels(self, count: int) -> Tensor:
        """Labels (count,) drawn with the frequencies of the training set."""
        size, device = len(self.labels), self.labels.device
        return self.labels[
            ranks.own_rows(lambda n: torch.randint(size, (n,), device=device), count)
        ]

    def _indices(self, position: int) -> Tensor:
        parts, missing = [], self.batch_size
        while missing:
            epoch, offset = divmod(position, len(self.labels))
            parts.append(self._order(epoch)[offset : offset + missing])
            position, missing = position + len(parts[-1]), missing - len(parts[-1])
        return torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            seed = int.from_bytes(_rank(self.seed, f"epoch {epoch}")[:7], "big")
            order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))
            kept = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders = kept | {epoch: order.to(self.labels.device)}
        return self._orders[epoch]
