"""Images per second of batches from a resident and from a streamed set.

python benchmarks/streaming.py [--side 64] [--images 20000]

Random pixels in memory and in a file (gan_vkd/data/storage.py), batches of 32 with flips. Resident
batches are read where the step is computed, streamed ones (gan_vkd/data/stream.py) fetched one
ahead; on a GPU they pass through pinned memory. The file is in the page cache: a disk that is read
may be slower.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from timing import machine, side_by_side

from gan_vkd.data import storage
from gan_vkd.data.batches import Batches
from gan_vkd.data.image_set import ImageSet

BATCH, ROUNDS, BATCHES = 32, 7, 30


def image_set(pixels: np.ndarray) -> ImageSet:
    count = len(pixels)
    labels = torch.zeros(count, dtype=torch.int64)
    return ImageSet(torch.from_numpy(pixels), labels, [""], [str(i) for i in range(count)])


def reader(batches: Batches) -> Callable[[], None]:
    """Returns a function that reads the next BATCHES batches."""
    numbers = iter(range(10**9))

    def read() -> None:
        for _ in range(BATCHES):
            batches(next(numbers))

    return read


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--images", type=int, default=20_000)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = args.images, 3, args.side, args.side
    in_memory = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    storage.SHARE = 0.0  # everything else goes to a file
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        in_file = storage.rows_of(in_memory, [*range(1, args.images), 0], Path(folder))
    ways = {
        "resident": (in_memory, True),
        "streamed from memory": (in_memory, False),
        "streamed from a file": (in_file, False),
    }
    readers = {
        name: reader(
            Batches(image_set(x), BATCH, flip=True, seed=0, device=device, resident=resident)
        )
        for name, (x, resident) in ways.items()
    }
    seconds = side_by_side(readers, ROUNDS)
    size = in_memory.nbytes / 2**30
    print(f"{args.images} images of {args.side} x {args.side}, {size:.2f} GiB, batches of {BATCH}")
    print(f"{machine()}, median of {ROUNDS} interleaved rounds of {BATCHES} batches\n")
    print("| set | images / s | relative to resident |")
    print("|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {BATCH * BATCHES / value:.0f} | {seconds['resident'] / value:.2f} |")


if __name__ == "__main__":
    main()
