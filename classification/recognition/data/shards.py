"""Tar shards of webdataset (jpg or png beside cls): an endless stream that can start anywhere.

Members are read into memory and decoded here, since webdataset's decoders would unpickle some.
"""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from classification.epochs.items import Item, seed_generators
from classification.recognition.settings import InputSettings
from gan_vkd.data.decoding import BadImage, open_rgb
from gan_vkd.runtime import ranks
from gan_vkd.runtime.errors import VkdError, one_line
from gan_vkd.runtime.files import user_path

BUFFER = 1000  # samples in a worker's shuffle buffer
SUFFIXES = ("jpg", "jpeg", "png", "webp")


class ShardList:
    """Shards with their numbers of images and classes; the files are not read here.

    Raises:
        VkdError: a shard is missing, or webdataset is not installed.
    """

    def __init__(self, settings: InputSettings) -> None:
        assert settings.num_images is not None
        assert settings.classes is not None
        try:
            import webdataset  # noqa: F401
            from braceexpand import braceexpand
        except ImportError:
            raise VkdError("data.kind = shards needs webdataset: pip install webdataset") from None
        self.files = [user_path(name) for name in braceexpand(settings.source)]
        missing = [str(file) for file in self.files if not file.is_file()]
        if missing:
            shown = ", ".join(missing[:3])
            raise VkdError(f"data.source = {settings.source}: no such shards: {shown}")
        self.count, self.limits = settings.num_images, settings.limits
        self.classes = [str(number) for number in range(settings.classes)]

    def fingerprint(self) -> str:
        """Equal for shards with the same names, independent of their location."""
        return repr([file.name for file in self.files])


class Stream(IterableDataset[Item]):
    """An endless stream of items; each worker reads its own shards in an order given by the seed.

    A pass of a worker is its share of `shards.count` images, however many its shards hold. The next
    pass starts with other shards, so the position of a resumed stream is known without reading
    earlier passes.

    Args:
        shards: the files.
        transform: PIL image -> tensor.
        resolution: of the blank image in place of a sample that cannot be used.
        seed: of the order and of the transform.
        rows: items in a batch.
        start: number of batches returned before.
        workers: number of workers on this rank.

    Raises:
        VkdError: fewer shards than workers.
    """

    def __init__(
        self,
        shards: ShardList,
        transform: Any,
        resolution: int,
        *,
        seed: int,
        rows: int,
        start: int,
        workers: int,
    ) -> None:
        self.shards, self.transform, self.resolution = shards, transform, resolution
        self.seed, self.rows, self.start = seed, rows, start
        streams = max(1, workers) * ranks.world()
        if len(shards.files) < streams:
            raise VkdError(
                f"data.source: {len(shards.files)} shards are fewer than the {streams} workers of "
                "all ranks: set a smaller data.workers"
            )
        self.rank, self.world = ranks.rank(), ranks.world()  # workers have no process group
        self.per_pass = max(1, shards.count // streams)

    def __iter__(self) -> Iterator[Item]:
        info = get_worker_info()
        here, workers = (0, 1) if info is None else (info.id, info.num_workers)
        # DataLoader takes the next batch from worker 0, which continues the stream that is due
        stream = (here + self.start) % workers
        given_out = self.rows * len(range(stream, self.start, workers))
        number = self.rank * workers + stream
        samples = self._samples(number, workers * self.world, given_out)
        for place, sample in enumerate(samples, given_out):
            seed_generators(self.seed, number, place)
            yield self._item(sample)

    def _samples(self, number: int, streams: int, given_out: int) -> Iterator[dict[str, Any]]:
        """Raw samples of one stream from `given_out` on; earlier passes are not read."""
        first, inside = divmod(given_out, self.per_pass)
        for epoch in itertools.count(first):
            shared = random.Random(f"{self.seed}: epoch {epoch}")
            order = shared.sample(self.shards.files, len(self.shards.files))
            own = random.Random(f"{self.seed}: epoch {epoch}, stream {number}")
            samples = _shuffled(order[number::streams], own)
            yield from itertools.islice(samples, inside if epoch == first else 0, self.per_pass)

    def _item(self, sample: dict[str, Any]) -> Item:
        blank = torch.zeros(3, self.resolution, self.resolution)
        name = f"{sample['__url__']}: {sample['__key__']}"
        if "__fault__" in sample:
            return Item(blank, 0, f"{name} ({sample['__fault__']})")
        data = next((sample[suffix] for suffix in SUFFIXES if suffix in sample), None)
        label = sample.get("cls", b"").decode(errors="replace").strip()
        if data is None or not label.isdecimal() or int(label) >= len(self.shards.classes):
            fault = f"no image ({', '.join(SUFFIXES)})" if data is None else f"class {label!r}"
            return Item(blank, 0, f"{name} ({fault})")
        try:
            return Item(self.transform(open_rgb(data, *self.shards.limits)), int(label), "")
        except BadImage as error:
            return Item(blank, 0, f"{name} ({error})")


def _shuffled(files: list[Path], random: random.Random) -> Iterator[dict[str, Any]]:
    """The samples of shards, shuffled in a buffer, in endless repetition."""
    while True:
        buffer: list[dict[str, Any]] = []
        for sample in itertools.chain.from_iterable(map(_read, files)):
            if len(buffer) < BUFFER:
                buffer.append(sample)
                continue
            place = random.randrange(BUFFER)
            yield buffer[place]
            buffer[place] = sample
        random.shuffle(buffer)
        yield from buffer


def _read(file: Path) -> Iterator[dict[str, Any]]:
    """The samples of one shard; a damaged or empty shard ends with a sample that has a fault."""
    from webdataset.tariterators import tarfile_samples

    empty = True
    try:
        for sample in tarfile_samples(iter([{"url": str(file.absolute())}])):
            empty = False
            yield sample
    except Exception as error:  # from tarfile, zlib and the file system
        yield {"__url__": str(file), "__key__": "damaged", "__fault__": one_line(error)}
    else:
        if empty:
            yield {"__url__": str(file), "__key__": "empty", "__fault__": "has no samples"}
