"""Loads the images that settings name: a registered set, or a folder or zip of image files."""

from pathlib import Path

import torch

from gan_vkd.data.image_set import SOURCES, ImageSet, draw_subset
from gan_vkd.data.images import read_images
from gan_vkd.data.settings import DataSettings
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.files import user_path


def load_training_set(settings: DataSettings) -> ImageSet:
    """Loads the training images and draws the subset.

    Raises:
        SettingsError: an empty or too large subset, or a resolution that CIFAR does not have.
        VkdError: missing, damaged or unreachable data.
    """
    if settings.source in SOURCES:
        full = SOURCES[settings.source](settings, train=True)
        assert full is not None
    else:
        full = _load_files(user_path(settings.source), settings)
    count = settings.num_images
    if settings.fraction is not None:
        count = round(settings.fraction * len(full))
    if count is None:
        return full
    if not 1 <= count <= len(full):
        raise SettingsError(f"data: a subset of {count} images, {settings.source} has {len(full)}")
    return full.subset(draw_subset(full.names, full.labels.tolist(), count, settings.seed))


def load_heldout_set(settings: DataSettings) -> ImageSet | None:
    """Loads the held-out set: the source's test split, a folder or zip, or None."""
    if settings.heldout is None:
        return None
    if settings.heldout == "test":
        if settings.source not in SOURCES:
            return None
        return SOURCES[settings.source](settings, train=False)
    return _load_files(user_path(settings.heldout), settings)


def _load_files(path: Path, settings: DataSettings) -> ImageSet:
    images, names, folders = read_images(
        path, settings.resolution, settings.damaged, settings.max_megapixels
    )
    classes = sorted(set(folders))
    index = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([index[folder] for folder in folders])
    return ImageSet(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels, classes, names
    )
