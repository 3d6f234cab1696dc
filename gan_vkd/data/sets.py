"""Loads the images that settings name: a registered set, or a folder or zip of image files."""

from pathlib import Path

import torch

from gan_vkd.data.image_set import SOURCES, ImageSet, draw_subset
from gan_vkd.data.images import read_images
from gan_vkd.data.settings import DataSettings
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.files import user_path


def load_training_set(settings: DataSettings, folder: Path | None = None) -> ImageSet:
    """Loads the training images and draws the subset.

    Args:
        settings: of the data.
        folder: for a file with the pixels if memory does not hold them.

    Raises:
        SettingsError: an empty or too large subset, or a resolution or number of channels that a
            named set does not have.
        VkdError: missing, damaged or unreachable data.
    """
    if settings.source in SOURCES:
        full = SOURCES[settings.source](settings, train=True)
        assert full is not None
        if settings.channels not in ("auto", full.shape.channels):
            raise SettingsError(
                f"data.channels = {settings.channels}: {settings.source} has "
                f"{full.shape.channels}; leave it out"
            )
    else:
        full = _load_files(user_path(settings.source), settings, folder)
    count = settings.num_images
    if settings.fraction is not None:
        count = round(settings.fraction * len(full))
    if count is None:
        return full
    if not 1 <= count <= len(full):
        raise SettingsError(f"data: a subset of {count} images, {settings.source} has {len(full)}")
    chosen = draw_subset(full.names, full.labels.tolist(), count, settings.seed)
    return full.subset(chosen, folder)


def load_some(settings: DataSettings, most: int) -> ImageSet:
    """Reads at most so many images of a folder or zip, drawn by `settings.seed`, and no others.

    Raises:
        VkdError: missing or damaged data.
    """
    return _load_files(user_path(settings.source), settings, most=most)


def load_heldout_set(settings: DataSettings, folder: Path | None = None) -> ImageSet | None:
    """Loads the held-out set: the source's test split, a folder or zip, or None.

    It needs as many channels as the training set: `settings.of_channels`.
    """
    if settings.heldout is None:
        return None
    if settings.heldout == "test":
        if settings.source not in SOURCES:
            return None
        return SOURCES[settings.source](settings, train=False)
    return _load_files(user_path(settings.heldout), settings, folder)


def _load_files(
    path: Path, settings: DataSettings, folder: Path | None = None, most: int | None = None
) -> ImageSet:
    images, names, folders = read_images(
        path, settings.form, settings.damaged, settings.max_megapixels, folder, most, settings.seed
    )
    classes = sorted(set(folders))
    index = {name: i for i, name in enumerate(classes)}
    labels = torch.tensor([index[name] for name in folders])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()  # as it is in memory
    return ImageSet(pixels, labels, classes, names)
