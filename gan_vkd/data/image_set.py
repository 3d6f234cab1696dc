"""A set of images in memory, and the registry of named sets.

A named set is a function of the settings and of whether its training or its test split is asked
for, registered under its name; it returns None where it has no test split.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from gan_vkd.runtime.registry import Registry


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


SOURCES: Registry[ImageSet | None] = Registry("data set")


def to_network(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Float in [-1, 1] -> uint8, the inverse of `to_network`."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def draw_subset(names: list[str], labels: list[int], count: int, seed: int) -> list[int]:
    """Indices of a stratified subset: the same for the same seed on every machine.

    Images are ranked by a hash of seed and name, so that no random generator's version matters. The
    j-th of the n images of a class stands at (j - 1/2) / n, and the first `count` over all classes
    are taken (Webster's method): classes keep their shares, and subsets of one seed are nested.
    """
    sizes, seen = Counter(labels), Counter[int]()
    place: dict[int, float] = {}
    for index in sorted(range(len(names)), key=lambda i: rank_of(seed, names[i])):
        label = labels[index]
        place[index] = (seen[label] + 0.5) / sizes[label]
        seen[label] += 1
    return sorted(sorted(place, key=place.__getitem__)[:count])


def rank_of(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogateescape")).digest()
