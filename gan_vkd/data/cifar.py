"""CIFAR-10 and CIFAR-100 in torchvision's format, from disk or downloaded."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gan_vkd.data.image_set import SOURCES, ImageSet
from gan_vkd.data.settings import DataSettings
from gan_vkd.runtime.errors import SettingsError, VkdError, one_line
from gan_vkd.runtime.files import subfolder, user_path
from gan_vkd.runtime.lock import locked


@SOURCES.register("cifar10")
def cifar10(settings: DataSettings, train: bool) -> ImageSet:
    from torchvision.datasets import CIFAR10

    return _load(CIFAR10, settings, train)


@SOURCES.register("cifar100")
def cifar100(settings: DataSettings, train: bool) -> ImageSet:
    from torchvision.datasets import CIFAR100

    return _load(CIFAR100, settings, train)


def _load(dataset_class: Any, settings: DataSettings, train: bool) -> ImageSet:
    root = user_path(settings.root)
    try:
        dataset = _read_or_download(dataset_class, train, root, settings)
    except Exception as error:  # of urllib, http, tar, pickle: no data in any case
        raise VkdError(
            f"{settings.source} is not in {root} and could not be downloaded ({one_line(error)}); "
            f"put torchvision's {dataset_class.base_folder} there, or set data.root"
        ) from None
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2)
    if settings.shape[1:] != images.shape[2:]:
        raise SettingsError(f"{settings.source} has 32x32 images: set data.resolution=32")
    names = [f"{'train' if train else 'test'}/{i:05d}" for i in range(len(images))]
    return ImageSet(
        images.contiguous(), torch.tensor(dataset.targets), list(dataset.classes), names
    )


def _read_or_download(dataset_class: Any, train: bool, root: Path, settings: DataSettings) -> Any:
    """Reads the data set from disk, or downloads it while other processes wait.

    Raises:
        VkdError: the download would write through a link in `root`.
    """
    load = partial(dataset_class, str(root), train)
    try:
        return load(download=False)
    except RuntimeError:
        if not settings.download:
            raise
    with locked(root, wait=True):
        subfolder(root, dataset_class.filename)
        folder = subfolder(root, dataset_class.base_folder)
        for name in os.listdir(folder) if folder.is_dir() else []:
            subfolder(folder, name)
        return load(download=True)
