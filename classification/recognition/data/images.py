"""Labelled images for recognition: in memory, or in a folder and decoded on demand."""

from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from classification.recognition.data.shards import ShardList
from classification.recognition.settings import InputSettings
from gan_vkd.data.decoding import open_rgb
from gan_vkd.data.image_set import ImageSet, draw_subset, why_no_classes
from gan_vkd.data.images import FolderSource
from gan_vkd.data.listing import list_images
from gan_vkd.data.sets import load_heldout_set, load_training_set
from gan_vkd.runtime.checkpoint import digest
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.files import user_path


class Images(Protocol):
    """Labelled images, decoded one by one.

    count: N. labels: (N,) int64. classes: the labels' names.
    """

    count: int
    labels: Tensor
    classes: list[str]

    def name(self, index: int) -> str: ...

    def image(self, index: int) -> Image.Image:
        """RGB. Raises BadImage where the file cannot be used."""
        ...

    def fingerprint(self) -> str:
        """Equal for equal sets, independent of their location."""
        ...


class InMemory:
    def __init__(self, images: ImageSet) -> None:
        self.pixels = images.images  # (N, 3, R, R) uint8
        self.labels, self.classes, self.names = images.labels, images.classes, images.names
        self.count = len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index].permute(1, 2, 0).numpy())

    def fingerprint(self) -> str:
        return digest(repr(self.classes), {"pixels": self.pixels, "labels": self.labels})


class Files:
    """A folder with one folder for each class, like ImageNet's train and val.

    Args:
        path: of the folder.
        settings: of the data.

    Raises:
        VkdError: no such folder, or no images in class folders.
    """

    def __init__(self, path: Path, settings: InputSettings) -> None:
        if not path.is_dir():
            raise VkdError(f"{path}: no such folder of class folders (data.source, data.heldout)")
        self.source, self.limits = FolderSource(path, settings.damaged), settings.limits
        self.names, folders = list_images(path, self.source.names())
        self.classes = sorted(set(folders))
        if len(self.classes) < 2:
            raise VkdError(f"{path}: {why_no_classes(self.names)}; two are needed")
        index = {name: i for i, name in enumerate(self.classes)}
        self.labels = torch.tensor([index[folder] for folder in folders])
        self.count = len(self.names)

    def split(self, share: float, seed: int, heldout: bool) -> "Files":
        """Keeps a share of the images of each class, drawn by seed, or all the others.

        Raises:
            SettingsError: a part without images.
        """
        count = round(share * self.count)
        drawn = set(draw_subset(self.names, self.labels.tolist(), count, seed))
        kept = [i for i in range(self.count) if (i in drawn) == heldout]
        if not kept:
            raise SettingsError(
                f"data.heldout = {share}: leaves {count} of {self.count} images to measure on"
            )
        self.names, self.labels = [self.names[i] for i in kept], self.labels[kept]
        self.count = len(kept)
        return self

    def name(self, index: int) -> str:
        return str(self.source.path / self.names[index])

    def image(self, index: int) -> Image.Image:
        return open_rgb(self.source.read(self.names[index]), *self.limits)

    def fingerprint(self) -> str:
        return digest(repr(self.names), {"labels": self.labels})


def load_training_images(settings: InputSettings) -> Images | ShardList:
    """Loads the training images that the settings name.

    Raises:
        SettingsError: a subset or resolution that the set cannot give.
        VkdError: missing or damaged data, or no classes.
    """
    if settings.kind == "files":
        files = Files(user_path(settings.source), settings)
        share = settings.heldout
        return files.split(share, settings.seed, False) if isinstance(share, float) else files
    if settings.kind == "shards":
        return ShardList(settings)
    images = load_training_set(settings.in_memory)
    if len(images.classes) < 2:
        raise SettingsError(
            f"data.source = {settings.source}: {why_no_classes(images.names)}; two are needed"
        )
    return InMemory(images)


def load_heldout_images(settings: InputSettings, classes: list[str] | None) -> Images | None:
    """Loads the held-out images; None where the settings have none.

    Args:
        settings: of the data.
        classes: the training set's, which must be the same; None: not compared.

    Raises:
        SettingsError: other classes than the training set's.
        VkdError: missing or damaged data.
    """
    if settings.heldout is None:
        return None
    heldout: Images | None
    if isinstance(settings.heldout, float):
        heldout = Files(user_path(settings.source), settings)
        heldout = heldout.split(settings.heldout, settings.seed, True)
    elif settings.kind == "memory":
        loaded = load_heldout_set(settings.in_memory)
        heldout = None if loaded is None else InMemory(loaded)
    else:
        heldout = Files(user_path(settings.heldout), settings)
    if heldout is None or classes is None:
        return heldout
    if settings.kind == "shards":
        if len(heldout.classes) != settings.classes:
            raise SettingsError(
                f"data.heldout = {settings.heldout}: has {len(heldout.classes)} classes, but "
                f"data.classes = {settings.classes}"
            )
    elif heldout.classes != classes:
        odd = sorted({*heldout.classes} ^ {*classes})[:5]
        raise SettingsError(f"data.heldout = {settings.heldout}: has other classes ({odd})")
    return heldout
