"""Endless batches of an image set, on the training device or streamed to it."""

from typing import NamedTuple

import torch
from torch import Tensor

from gan_vkd.data.image_set import ImageSet, hash_of, to_network
from gan_vkd.data.stream import Stream
from gan_vkd.runtime import ranks

SHARE = 0.25  # of a GPU's free memory that a set may take there


class Batch(NamedTuple):
    """Images (B, C, H, W) in [-1, 1] and labels (B,), with their origin.

    indices: (B,) of the images in the set. flipped: (B,) bool, true for mirrored images.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    flipped: Tensor


class Batches:
    """Endless shuffled epochs of an image set.

    The set is held on the device as uint8, or streamed to it, with the same batches to the bit, if
    it takes more than SHARE of a GPU's free memory.

    The order depends on seed and batch number only, so checkpoints need no state of it; flips draw
    from torch's global generator. A batch may span epochs and may be larger than the set. Each
    rank gets its part of a batch.

    Args:
        data: the set.
        batch_size: of all ranks together.
        flip: whether half of the images are mirrored.
        seed: of the order.
        device: where the batches are needed.
        resident: whether the set is held there; None: if it takes at most SHARE.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        *,
        flip: bool,
        seed: int,
        device: str,
        resident: bool | None = None,
    ) -> None:
        self.batch_size, self.flip, self.seed = batch_size, flip, seed
        self.images, self.labels = data.images, data.labels.to(device)
        self._orders: dict[int, Tensor] = {}
        self._on, self.stream = "cpu", None
        if _fits(data.images, device) if resident is None else resident:
            self._on, self.images = device, data.images.to(device)
        else:
            self.stream = Stream(data.images, device, self._own_indices)

    def __call__(self, number: int) -> Batch:
        """Returns batch `number`, or this rank's rows of it."""
        return self.of(self.indices(number))

    def indices(self, number: int) -> Tensor:
        """Returns the indices (B,) of this rank's images in batch `number`, for `of`."""
        return self._own_indices(number) if self.stream is None else self.stream.bring(number)

    def of(self, chosen: Tensor) -> Batch:
        """Returns the images of these indices (B,), randomly flipped.

        Of a streamed set they must be those that `indices` returned last.
        """
        pixels = self.images[chosen] if self.stream is None else self.stream.pixels
        images = to_network(pixels)
        flipped = torch.zeros_like(chosen, dtype=torch.bool)
        if self.flip:
            drawn = ranks.own_rows(lambda n: torch.rand(n, device=images.device), len(chosen))
            flipped = drawn < 0.5
            images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        return Batch(images, self.labels[chosen], chosen, flipped)

    def random_labels(self, count: int) -> Tensor:
        """Draws labels (count,) with the frequencies of the training set."""
        size, device = len(self.labels), self.labels.device
        return self.labels[
            ranks.own_rows(lambda n: torch.randint(size, (n,), device=device), count)
        ]

    def _own_indices(self, number: int) -> Tensor:
        return self._indices(number * self.batch_size)[ranks.own_part(self.batch_size)]

    def _indices(self, position: int) -> Tensor:
        parts, missing = [], self.batch_size
        while missing:
            epoch, offset = divmod(position, len(self.labels))
            parts.append(self._order(epoch)[offset : offset + missing])
            position, missing = position + len(parts[-1]), missing - len(parts[-1])
        return torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            seed = int.from_bytes(hash_of(self.seed, f"epoch {epoch}")[:7], "big")
            order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))
            kept = {e: o for e, o in self._orders.items() if e == epoch - 1}
            if self._on.startswith("cuda"):
                order = order.pin_memory()  # copied without waiting for the device
            order = order.to(self._on, non_blocking=True)
            self._orders = kept | {epoch: order}
        return self._orders[epoch]


def _fits(images: Tensor, device: str) -> bool:
    """Whether the images take at most SHARE of the memory that is free on a GPU."""
    if not device.startswith("cuda"):
        return True
    return images.nbytes <= SHARE * torch.cuda.mem_get_info(device)[0]
