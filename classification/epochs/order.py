"""The order of images over batches and ranks, and the keys of their random numbers."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import DistributedSampler

from classification.epochs.settings import EpochSettings
from gan_vkd.runtime import ranks
from gan_vkd.runtime.errors import SettingsError


class Order:
    """The images of each rank in each batch: shuffled epochs, with repeated augmentation.

    Each image is repeated `repeats` times, on different ranks where there are several, and an epoch
    has fewer images by that factor (Hoffer et al. 2020; Berman et al. 2019; timm's
    RepeatAugSampler). An incomplete batch at the end of an epoch is dropped.
    """

    def __init__(self, count: int, batch: int, seed: int, repeats: int = 1) -> None:
        self.batch, self.seed = batch, seed
        self.per_epoch = count // ranks.world() // batch
        shared: dict[str, Any] = {
            "num_replicas": ranks.world(),
            "rank": ranks.rank(),
            "shuffle": True,
        }
        everything: Any = range(count)
        self.sampler: Any = (
            RepeatAugSampler(everything, num_repeats=repeats, **shared)
            if repeats > 1
            else DistributedSampler(everything, drop_last=True, **shared)
        )
        self._epoch, self._order = -1, list[int]()
        if repeats > 1:
            self.per_epoch = len(self.sampler) // batch
        if not self.per_epoch:
            raise SettingsError(
                f"train.batch_size: {batch} images on each of {ranks.world()} ranks are more than "
                f"an epoch of the {count} images has"
            )

    def __call__(self, number: int) -> list[tuple[tuple[Any, ...], int]]:
        """The (key, index) of this rank's images in batch `number`, counted over all epochs.

        Without repeats, all ranks together have the images and keys that a single rank would have.
        """
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            shuffled = hashlib.sha256(f"{self.seed}: epoch {epoch}".encode()).digest()
            self.sampler.set_epoch(int.from_bytes(shuffled[:6], "big"))
            self._epoch, self._order = epoch, list(self.sampler)
        rows = self._order[place * self.batch : (place + 1) * self.batch]
        first, step = ranks.rank(), ranks.world()
        return [((self.seed, number, first + step * i), int(x)) for i, x in enumerate(rows)]


class BatchesFrom:
    """The batches of an order from number `start` on, without end."""

    def __init__(
        self, order: Callable[[int], list[tuple[tuple[Any, ...], int]]], start: int
    ) -> None:
        self.order, self.start = order, start

    def __iter__(self) -> Iterator[list[tuple[tuple[Any, ...], int]]]:
        number = self.start
        while True:
            yield self.order(number)
            number += 1


def images_per_rank(train: EpochSettings) -> int:
    """The number of images of a batch that each rank has."""
    size, parts = train.batch_size, ranks.world() * train.accumulate
    if size % parts:
        raise SettingsError(
            f"train.batch_size = {size}: {ranks.world()} ranks times train.accumulate = "
            f"{train.accumulate} cannot share it evenly"
        )
    return size // ranks.world()
