"""Batches of a set that the device's memory does not hold: each is fetched before it is used."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor


class Fetched(NamedTuple):
    """Indices (B,) and pixels (B, C, H, W) on the device once `ready`; None: already there."""

    indices: Tensor
    pixels: Tensor
    ready: torch.cuda.Event | None


class Stream:
    """Fetches one batch ahead, in a thread: from memory or a file into pinned memory, and from
    there to the GPU on a stream of its own, while the device computes.

    `pixels` holds the batch that was brought last. It is one tensor that is written anew, as a
    captured step (gan_vkd/runtime/graphs.py) requires.

    Args:
        images: (N, C, H, W) uint8 on the CPU, in memory or mapped to a file.
        device: where the batches are needed.
        rows: returns the indices (B,) of the images of a batch by its number, on the CPU.
    """

    pixels: Tensor

    def __init__(self, images: Tensor, device: str, rows: Callable[[int], Tensor]) -> None:
        self.images, self.device, self.rows = images, device, rows
        self._copying = torch.cuda.Stream(device) if device.startswith("cuda") else None
        self._thread = ThreadPoolExecutor(1)
        self._ahead: tuple[int, Future[Fetched]] | None = None

    def bring(self, number: int) -> Tensor:
        """Puts a batch into `pixels` and returns its indices; fetches the one after it."""
        if self._ahead is None or self._ahead[0] != number:
            self._ahead = number, self._thread.submit(self._fetch, number)
        fetched = self._ahead[1].result()
        self._ahead = number + 1, self._thread.submit(self._fetch, number + 1)
        if fetched.ready is not None:
            own = torch.cuda.current_stream(self.device)
            own.wait_event(fetched.ready)
            for tensor in (fetched.indices, fetched.pixels):
                tensor.record_stream(own)
        if not hasattr(self, "pixels"):
            self.pixels = torch.empty_like(fetched.pixels)
        self.pixels.copy_(fetched.pixels)
        return fetched.indices

    def _fetch(self, number: int) -> Fetched:
        indices = self.rows(number)
        pixels = self.images[indices]
        if self._copying is None:
            return Fetched(indices, pixels, None)
        with torch.cuda.device(self.device), torch.cuda.stream(self._copying):
            indices, pixels = (
                x.pin_memory().to(self.device, non_blocking=True) for x in (indices, pixels)
            )
            return Fetched(indices, pixels, self._copying.record_event())
