"""Images for recognition: from memory, files or shards, through timm's transforms, to the device.

Everything random is a function of (seed, number of the batch, place in it): a resumed run sees what
it would have seen, whatever the number of workers (but for shards, which it cuts into streams), and
no random generator's state is saved.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from timm.data.auto_augment import posterize
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from classification.config import AugmentSettings, ClassifierSettings, InputSettings
from classification.items import Faults, Item, sow
from classification.order import BatchesFrom, Order, share_of_a_rank
from classification.resident import PADDING, Resident, is_simple
from classification.shards import ShardList, Stream
from gan_vkd.data.image_set import ImageSet
from gan_vkd.data.images import BadImage, FolderSource, list_images, open_rgb
from gan_vkd.data.sets import load_heldout_set, load_training_set
from gan_vkd.runtime import ranks
from gan_vkd.runtime.checkpoint import digest
from gan_vkd.runtime.errors import SettingsError, VkdError, one_line
from gan_vkd.runtime.stopping import outlive


class Images(Protocol):
    """Labelled images, decoded one by one.

    count: N. labels: (N,) int64. classes: the names behind them.
    """

    count: int
    labels: Tensor
    classes: list[str]

    def name(self, index: int) -> str: ...

    def image(self, index: int) -> Image.Image:
        """RGB. Raises BadImage where the file cannot be used."""
        ...

    def fingerprint(self) -> str:
        """Equal for equal sets, wherever they lie."""
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
    """A folder with a folder a class, as ImageNet's train and val are.

    Raises:
        VkdError: no such folder, or no images in class folders.
    """

    def __init__(self, path: Path, damaged: str = "refuse") -> None:
        if not path.is_dir():
            raise VkdError(f"{path}: no such folder of class folders (data.source, data.heldout)")
        self.source = FolderSource(path, damaged)
        self.names, folders = list_images(path, self.source)
        self.classes = sorted(set(folders))
        if len(self.classes) < 2:
            raise VkdError(f"{path}: has no class folders")
        index = {name: i for i, name in enumerate(self.classes)}
        self.labels = torch.tensor([index[folder] for folder in folders])
        self.count = len(self.names)

    def name(self, index: int) -> str:
        return str(self.source.path / self.names[index])

    def image(self, index: int) -> Image.Image:
        return open_rgb(self.source.read(self.names[index]))

    def fingerprint(self) -> str:
        return digest(repr(self.names), {"labels": self.labels})


def load_training_images(settings: InputSettings) -> Images | ShardList:
    """What the settings name, decoded where it is of kind memory.

    Raises:
        SettingsError: a subset or resolution that the set cannot give.
        VkdError: missing or damaged data, or no classes.
    """
    if settings.kind == "files":
        return Files(Path(settings.source).expanduser(), settings.damaged)
    if settings.kind == "shards":
        assert settings.num_images is not None
        assert settings.classes is not None
        return ShardList(settings.source, settings.num_images, settings.classes)
    images = load_training_set(settings.in_memory)
    if len(images.classes) < 2:
        raise SettingsError(f"data.source = {settings.source}: has no class folders")
    return InMemory(images)


def load_heldout_images(settings: InputSettings, classes: list[str] | None) -> Images | None:
    """What is measured on, with the training set's classes; None where there is nothing.

    Raises:
        SettingsError: other classes.
        VkdError: missing or damaged data.
    """
    if settings.heldout is None:
        return None
    if settings.kind == "memory":
        loaded = load_heldout_set(settings.in_memory)
        heldout: Images | None = None if loaded is None else InMemory(loaded)
    else:
        heldout = Files(Path(settings.heldout).expanduser(), settings.damaged)
    if heldout is None or classes is None:
        return heldout
    if settings.kind == "shards":
        if len(heldout.classes) != settings.classes:
            raise SettingsError(
                f"data.heldout = {settings.heldout}: has {len(heldout.classes)} classes, the "
                f"shards {settings.classes}"
            )
    elif heldout.classes != classes:
        odd = sorted({*heldout.classes} ^ {*classes})[:5]
        raise SettingsError(f"data.heldout = {settings.heldout}: has other classes ({odd})")
    return heldout


def training_transform(data: InputSettings, augment: AugmentSettings) -> Any:
    """PIL image -> normalised (3, R, R), as DeiT augments.

    Raises:
        SettingsError: a policy that timm does not know.
    """
    try:
        transform = create_transform(
            data.resolution,
            is_training=True,
            scale=augment.scale,
            hflip=augment.flip,
            color_jitter=augment.color_jitter,
            auto_augment=augment.policy,
            interpolation="bicubic",
            mean=data.mean,
            std=data.std,
            re_prob=augment.erasing,
            re_mode="pixel",
        )
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"augment.policy = {augment.policy}: timm makes no augmentation of it "
            f"({one_line(error)}); expected e.g. rand-m9-mstd0.5-inc1, 3a or null"
        ) from None
    if augment.erasing:
        transform.transforms[-1].device = "cpu"
    for step in transform.transforms:
        for op in itertools.chain(getattr(step, "ops", []), *getattr(step, "policy", [])):
            if op.aug_fn is posterize:
                op.aug_fn = _posterize_to_a_bit
    if augment.crop == "padded":
        transform.transforms[0] = transforms.RandomCrop(data.resolution, padding=PADDING)
    return transform


def _posterize_to_a_bit(image: Image.Image, bits: int, **options: Any) -> Image.Image:
    """timm's strongest posterisation keeps no bit of a colour, which Pillow 13 refuses."""
    return posterize(image, max(1, bits), **options)


def test_transform(data: InputSettings, crop: float) -> Any:
    """PIL image -> normalised (3, R, R): the centre of the resized image; small images as are."""
    if data.kind == "memory":
        return transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
        )
    return create_transform(
        data.resolution,
        interpolation="bicubic",
        mean=data.mean,
        std=data.std,
        crop_pct=crop,
    )


class Transformed(Dataset[Item]):
    """Items by (key, index): the key alone decides what is random in the transform."""

    def __init__(self, images: Images, transform: Any, resolution: int) -> None:
        self.images, self.transform, self.resolution = images, transform, resolution

    def __getitem__(self, place: tuple[Any, int]) -> Item:
        key, index = place
        sow(*key)
        label = int(self.images.labels[index])
        try:
            return Item(self.transform(self.images.image(index)), label, "")
        except BadImage as error:
            blank = torch.zeros(3, self.resolution, self.resolution)
            return Item(blank, label, f"{self.images.name(index)} ({error})")


class Batch(NamedTuple):
    """Normalised images (B, 3, R, R) and labels (B,), on the device."""

    images: Tensor
    labels: Tensor


class Feed:
    """Batches by number, of this rank.

    They are made on the device where images in memory are only cropped and flipped; otherwise by
    the workers, ahead as long as they are asked for in a row.
    """

    def __init__(
        self, settings: ClassifierSettings, images: Images | ShardList, device: str
    ) -> None:
        train = settings.train
        self.settings, self.images, self.device = settings, images, device
        self.rows = share_of_a_rank(settings.train)
        if self.rows % 2 and (settings.augment.mixup > 0 or settings.augment.cutmix > 0):
            raise SettingsError(
                f"mixup and cutmix pair images: of train.batch_size = {train.batch_size} each rank "
                f"has {self.rows}, and must have an even number"
            )
        self.order = Order(images.count, self.rows, settings.seed, settings.augment.repeats)
        self.per_epoch = self.order.per_epoch
        self.transform = training_transform(settings.data, settings.augment)
        self.resident: Resident | None = None
        if isinstance(images, InMemory) and is_simple(settings.augment):
            self.resident = Resident(images.pixels, images.labels, self.order, settings, device)
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
        if any(faults):
            images, labels = self._without(images, labels, faults)
        to = {"device": self.device, "non_blocking": True}
        return Batch(images.to(**to), labels.to(**to))

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
        items = Transformed(self.images, self.transform, data.resolution)
        return DataLoader(items, batch_sampler=BatchesFrom(self.order, start), **options)

    def _without(self, images: Tensor, labels: Tensor, faults: Any) -> tuple[Tensor, Tensor]:
        """Puts good images of the batch in the place of those that cannot be used."""
        bad = [i for i, fault in enumerate(faults) if fault]
        good = [i for i, fault in enumerate(faults) if not fault]
        self.faults.tell(faults[i] for i in bad)
        if not good:
            raise VkdError(f"no image of a whole batch can be used, the first: {faults[0]}")
        for place, index in enumerate(bad):
            images[index] = images[good[place % len(good)]]
            labels[index] = labels[good[place % len(good)]]
        return images, labels


def heldout_batches(
    settings: ClassifierSettings, images: Images, device: str
) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """This rank's part of the held-out images: images, labels and faults, each image once."""
    part = ranks.own_part(images.count)
    transform = test_transform(settings.data, settings.evaluate.crop)
    items = Transformed(images, transform, settings.data.resolution)
    places = [((index,), index) for index in range(part.start, part.stop)]
    workers = settings.data.workers
    yield from DataLoader(
        items,
        batch_size=settings.evaluate.batch_size,
        sampler=places,
        num_workers=workers,
        worker_init_fn=outlive,
        prefetch_factor=2 if workers else None,
        pin_memory=device.startswith("cuda"),
    )
