"""Batches of images: from memory, files or shards, through timm's transforms, to the device.

All random numbers are a function of (seed, number of the batch, place in it), so a resumed run gets
the same batches and no generator's state is saved. The number of workers makes no difference except
for shards, which are divided into one stream for each worker.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from classification.epochs.items import Faults, Item, seed_generators
from classification.epochs.order import BatchesFrom, Order, images_per_rank
from classification.recognition.data.images import Images, InMemory
from classification.recognition.data.resident import Resident, is_simple
from classification.recognition.data.shards import ShardList, Stream
from classification.recognition.data.transforms import test_transform, training_transform
from classification.recognition.settings import ClassifierSettings
from gan_vkd.data.decoding import BadImage
from gan_vkd.runtime import ranks
from gan_vkd.runtime.bars import progress_bar
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.stopping import outlive


class Transformed(Dataset[Item]):
    """Items by (key, index); the key seeds the transform's random numbers."""

    def __init__(self, images: Images, transform: Any, resolution: int) -> None:
        self.images, self.transform, self.resolution = images, transform, resolution

    def __getitem__(self, place: tuple[Any, int]) -> Item:
        key, index = place
        seed_generators(*key)
        label = int(self.images.labels[index])
        try:
            return Item(self.transform(self.images.image(index)), label, "")
        except BadImage as error:
            blank = torch.zeros(3, self.resolution, self.resolution)
            return Item(blank, label, f"{self.images.name(index)} ({error})")


class Batch(NamedTuple):
    """Normalised images (B, 3, R, R) and labels (B,), on the device.

    rows: (B,), the number of each image's view, index * views + view; None without fixed views.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None


class FixedViews:
    """An order in which the key of an image is its view, one after the other over the epochs."""

    def __init__(self, order: Order, views: int) -> None:
        self.order, self.views = order, views

    def __call__(self, number: int) -> list[tuple[tuple[Any, ...], int]]:
        view = number // self.order.per_epoch % self.views
        return [view_of(index * self.views + view, self.views) for _, index in self.order(number)]


def view_of(row: int, views: int) -> tuple[tuple[Any, ...], int]:
    """The (key, index) of a row; no seed is in it, so that all runs of a set share the views."""
    return ("view", row), row // views


class Feed:
    """This rank's batches, by number.

    Images in memory that are only cropped and flipped are processed on the device. Otherwise the
    workers prepare batches, in advance as long as consecutive numbers are requested.
    """

    def __init__(
        self, settings: ClassifierSettings, images: Images | ShardList, device: str
    ) -> None:
        train = settings.train
        self.settings, self.images, self.device = settings, images, device
        self.rows = images_per_rank(settings.train)
        if self.rows % 2 and (settings.augment.mixup > 0 or settings.augment.cutmix > 0):
            raise SettingsError(
                f"mixup and cutmix pair images: each rank needs an even number of them, but has "
                f"{self.rows} of train.batch_size = {train.batch_size}"
            )
        order = Order(images.count, self.rows, settings.seed, settings.augment.repeats)
        self.per_epoch, self.views = order.per_epoch, settings.augment.views
        self.order = FixedViews(order, self.views) if self.views else order
        self.transform = training_transform(settings.data, settings.augment)
        self.resident: Resident | None = None
        simple = is_simple(settings.augment) and not self.views
        if isinstance(images, InMemory) and simple:
            self.resident = Resident(images.pixels, images.labels, order, settings, device)
        self.faults = Faults(settings.data.damaged)
        self._next, self._batches = -1, iter(list[Any]())

    def __call__(self, number: int) -> Batch:
        """The batch of update `number`.

        Raises:
            VkdError: a file that cannot be used, with data.damaged=refuse.
        """
        if self.resident is not None:
            return Batch(*self.resident(number))
        if number != self._next:
            self._batches = iter(self._loader(number))
        self._next = number + 1
        images, labels, faults = next(self._batches)
        rows = torch.tensor([key[1] for key, _ in self.order(number)]) if self.views else None
        if any(faults):
            good = self._usable(faults)
            images, labels = images[good], labels[good]
            rows = None if rows is None else rows[good]
        to: Any = {"device": self.device, "non_blocking": True}
        return Batch(
            images.to(**to), labels.to(**to), None if rows is None else rows.to(self.device)
        )

    def _loader(self, start: int) -> DataLoader[Any]:
        data, workers = self.settings.data, self.settings.data.workers
        options: dict[str, Any] = {
            "num_workers": workers,
            "worker_init_fn": outlive,
            "pin_memory": self.device.startswith("cuda"),
            "prefetch_factor": 2 if workers else None,
        }
        if isinstance(self.images, ShardList):
            stream = Stream(
                self.images, self.transform, data.resolution, seed=self.settings.seed,
                rows=self.rows, start=start, workers=workers,
            )  # fmt: skip
            return DataLoader(stream, batch_size=self.rows, **options)
        items = self.items()
        return DataLoader(items, batch_sampler=BatchesFrom(self.order, start), **options)

    def items(self) -> Transformed:
        """All training images, augmented, by (key, index); not of shards."""
        assert not isinstance(self.images, ShardList)
        return Transformed(self.images, self.transform, self.settings.data.resolution)

    def _usable(self, faults: Any) -> Tensor:
        """Places (B,) in which images that cannot be used are replaced by others of the batch."""
        good = [i for i, fault in enumerate(faults) if not fault]
        self.faults.report(fault for fault in faults if fault)
        if not good:
            raise VkdError(f"no image of a batch can be used, the first is {faults[0]}")
        places, bad = torch.arange(len(faults)), [i for i, fault in enumerate(faults) if fault]
        places[bad] = torch.tensor([good[i % len(good)] for i in range(len(bad))])
        return places


def heldout_batches(
    settings: ClassifierSettings, images: Images, device: str
) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """Images, labels and faults of this rank's part of the held-out images, each image once."""
    part = ranks.own_part(images.count)
    transform = test_transform(settings.data, settings.evaluate.crop)
    items = Transformed(images, transform, settings.data.resolution)
    places = [((index,), index) for index in range(part.start, part.stop)]
    workers = settings.data.workers
    loader = DataLoader(
        items,
        batch_size=settings.evaluate.batch_size,
        sampler=places,
        num_workers=workers,
        worker_init_fn=outlive,
        prefetch_factor=2 if workers else None,
        pin_memory=device.startswith("cuda"),
    )
    yield from progress_bar(loader, "held-out images")
