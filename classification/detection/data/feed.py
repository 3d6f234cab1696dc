"""Batches of images and boxes by number: padded to one size, prepared in advance by workers."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from classification.detection.data.coco import Coco
from classification.detection.data.views import (
    require_aspect_ratio,
    training_view,
    whole_view,
    with_boxes,
)
from classification.detection.matching import Targets
from classification.detection.settings import DetectionSettings
from classification.epochs.items import Faults, seed_generators
from classification.epochs.order import BatchesFrom, Order, images_per_rank
from gan_vkd.data.decoding import BadImage
from gan_vkd.runtime import ranks
from gan_vkd.runtime.bars import progress_bar
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.stopping import outlive


class Example(NamedTuple):
    """An image (3, H, W), its labels (n,), boxes (n, 4) and index, and the faults of files."""

    image: Tensor
    labels: Tensor
    boxes: Tensor
    place: int
    fault: str


class Batch(NamedTuple):
    """Images (B, 3, H, W) padded to the largest, the padding (B, H, W), and the objects.

    sizes: (H, W) of each image without padding. indices: of the images in their set. faults: of
    files that could not be used.
    """

    images: Tensor
    padding: Tensor
    targets: Targets
    sizes: list[tuple[int, int]]
    indices: list[int]
    faults: list[str]

    def chunk(self, count: int, crop: bool = True) -> list["Batch"]:
        """Splits into equal parts, each cropped to its own largest image unless crop is False."""
        rows = len(self.images) // count
        parts = []
        for i, targets in enumerate(self.targets.chunk(count)):
            own = slice(i * rows, (i + 1) * rows)
            height, width = largest(self.sizes[own]) if crop else self.padding.shape[1:]
            images = self.images[own, :, :height, :width]
            padding = self.padding[own, :height, :width]
            parts.append(Batch(images, padding, targets, self.sizes[own], self.indices[own], []))
        return parts

    def padded(self, height: int, width: int) -> "Batch":
        """Pads further, at the right and below."""
        more = (0, width - self.padding.shape[2], 0, height - self.padding.shape[1])
        images, padding = F.pad(self.images, more), F.pad(self.padding, more, value=True)
        return self._replace(images=images, padding=padding)

    def to(self, device: str) -> "Batch":
        images, padding = (x.to(device, non_blocking=True) for x in (self.images, self.padding))
        return self._replace(images=images, padding=padding, targets=self.targets.to(device))


class Viewed(Dataset[Example]):
    """Examples by (key, index); the key seeds the view's random numbers.

    Args:
        images: all images of the set.
        view: transform of an image and its boxes.
        substitute: whether an image that cannot be used is replaced by the next one that can.
    """

    def __init__(self, images: Coco, view: Any, substitute: bool) -> None:
        self.images, self.view, self.substitute = images, view, substitute

    def __getitem__(self, place: tuple[Any, int]) -> Example:
        key, index = place
        seed_generators(*key)
        faults: list[str] = []
        for offset in range(self.images.count if self.substitute else 1):
            index = (place[1] + offset) % self.images.count
            try:
                image = require_aspect_ratio(self.images.image(index))
                viewed = with_boxes(self.view, image, self.images.objects[index])
                return Example(*viewed, index, "; ".join(faults))
            except BadImage as error:
                faults.append(f"{self.images.name(index)} ({error})")
        empty = torch.empty(0)
        return Example(empty, empty, empty, index, "; ".join(faults[:5]))


def collate(examples: Sequence[Example]) -> Batch:
    """Collates examples, padded at the right and below; leaves out those without an image."""
    good = [example for example in examples if example.image.numel()]
    sizes = [(example.image.shape[1], example.image.shape[2]) for example in good]
    height, width = largest(sizes)
    images = torch.zeros(len(good), 3, height, width)
    padding = torch.ones(len(good), height, width, dtype=torch.bool)
    for i, (example, (h, w)) in enumerate(zip(good, sizes, strict=True)):
        images[i, :, :h, :w] = example.image
        padding[i, :h, :w] = False
    labels = torch.cat([example.labels for example in good]) if good else torch.empty(0)
    boxes = torch.cat([example.boxes for example in good]) if good else torch.empty(0, 4)
    counts = [len(example.labels) for example in good]
    faults = [example.fault for example in examples if example.fault]
    indices = [example.place for example in good]
    return Batch(images, padding, Targets(labels, boxes, counts), sizes, indices, faults)


def largest(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The largest height and the largest width; 0 of none."""
    height, width = (max((size[i] for size in sizes), default=0) for i in (0, 1))
    return height, width


class Feed:
    """This rank's batches, by number, padded to the largest image of the rank or of all ranks."""

    def __init__(self, settings: DetectionSettings, images: Coco, device: str) -> None:
        self.settings, self.images, self.device = settings, images, device
        self.order = Order(images.count, images_per_rank(settings.train), settings.seed)
        self.per_epoch = self.order.per_epoch
        substitute = settings.data.damaged == "skip"
        self.items = Viewed(images, training_view(settings.data, settings.augment), substitute)
        self.faults = Faults(settings.data.damaged)
        self._next, self._batches = -1, iter(list[Batch]())

    def __call__(self, number: int) -> Batch:
        """The batch of update `number`.

        Raises:
            VkdError: a file that cannot be used, with data.damaged=refuse.
        """
        if number != self._next:
            order = BatchesFrom(self.order, number)
            self._batches = iter(_loader(self.settings, self.items, self.device, sampler=order))
        self._next = number + 1
        batch = next(self._batches)
        self.faults.report(batch.faults)
        if not batch.indices:
            raise VkdError(f"no image of a batch can be used, the first is {batch.faults[0]}")
        if self.settings.train.padded_to == "update":
            batch = batch.padded(*largest(ranks.all_parts(largest(batch.sizes))))
        return batch.to(self.device)


def heldout_batches(settings: DetectionSettings, images: Coco, device: str) -> Iterator[Batch]:
    """This rank's part of the batches of held-out images, each image once.

    Padding influences the network's output, so the batches are the same for any number of ranks.
    """
    evaluate, data = settings.evaluate, settings.data
    places = [((index,), index) for index in range(images.count)]
    batches = [
        places[i : i + evaluate.batch_size] for i in range(0, len(places), evaluate.batch_size)
    ]
    view = whole_view(evaluate.scale, evaluate.longest, data.mean, data.std)
    items = Viewed(images, view, substitute=False)
    loader = _loader(settings, items, device, batches[ranks.own_part(len(batches))])
    for batch in progress_bar(loader, "held-out images"):
        yield batch.to(device)


def _loader(
    settings: DetectionSettings, items: Viewed, device: str, sampler: Any
) -> DataLoader[Example]:
    workers = settings.data.workers
    return DataLoader(
        items,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=outlive,
        prefetch_factor=2 if workers else None,
        pin_memory=device.startswith("cuda"),
    )
