"""A set of images in memory, and the registry of named sets.

A named set is a function of the settings and of `train`, which selects the training or the test
split, registered by name. It returns None if it has no test split.
"""

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from gan_vkd.data.shape import Shape
from gan_vkd.data.storage import BLOCK, rows_of
from gan_vkd.runtime.registry import Registry


@dataclass(frozen=True)
class ImageSet:
    """Labelled images.

    images: (N, C, H, W) uint8 on the CPU, with C = 1 (grey), 3 (RGB) or 4 (RGBA), in memory or
    mapped to a file (gan_vkd/data/storage.py). labels: (N,) int64. classes: names of the classes by
    label, [""] for a set without classes. names: of the images, unique and stable; subsets are
    drawn by them.
    """

    images: Tensor
    labels: Tensor
    classes: list[str]
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> Shape:
        return Shape(*self.images.shape[1:])

    def subset(self, indices: list[int], folder: Path | None = None) -> "ImageSet":
        """folder: for a file with the pixels if memory does not hold them."""
        chosen = torch.tensor(indices, dtype=torch.int64)
        names = [self.names[i] for i in indices]
        images = torch.from_numpy(rows_of(self.images.numpy(), indices, folder))
        return ImageSet(images, self.labels[chosen], self.classes, names)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of pixels and labels, which identifies the set in caches."""
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        for block in self.images.split(BLOCK):
            digest.update(block.numpy().tobytes())
        digest.update(self.labels.cpu().numpy().tobytes())
        return digest.hexdigest()


def why_no_classes(names: list[str]) -> str:
    """Says why a set with these names of images has no classes."""
    folder = PurePosixPath(names[0]).parent  # of all images
    return "has no class folders" if folder.name == "" else f"has one class folder, {str(folder)!r}"


SOURCES: Registry[ImageSet | None] = Registry("data set")


def to_network(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1] -> uint8, the inverse of `to_network`."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def draw_subset(names: list[str], labels: Sequence[Hashable], count: int, seed: int) -> list[int]:
    """Returns the indices of a stratified subset, the same for a seed on every machine.

    Images are sorted by a hash of seed and name, so no random generator is involved. The j-th of
    the n images of a class has the position (j - 1/2) / n, and the first `count` over all classes
    are taken (Webster's method): classes keep their shares, and subsets of one seed are nested.
    """
    sizes, counts = Counter(labels), Counter[Hashable]()
    position: dict[int, float] = {}
    for index in sorted(range(len(names)), key=lambda i: hash_of(seed, names[i])):
        label = labels[index]
        position[index] = (counts[label] + 0.5) / sizes[label]
        counts[label] += 1
    return sorted(sorted(position, key=position.__getitem__)[:count])


def hash_of(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogateescape")).digest()
