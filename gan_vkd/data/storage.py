"""Where the pixels of a set are kept: in memory, or in a file where memory does not hold them."""

import math
import os
import tempfile
from pathlib import Path

import numpy as np

from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import reason
from gan_vkd.runtime.memory import free_memory

SHARE = 0.5  # of the free memory that a set may take
BLOCK = 1000  # images that are copied at a time


def empty(shape: tuple[int, ...], folder: Path | None = None) -> np.ndarray:
    """Returns an array of uint8 whose values are not set.

    It is in memory, or mapped to a temporary file if it takes more than SHARE of the free memory.
    The file has no name, so that it is gone with the process.

    Args:
        shape: of the array.
        folder: of the file; None: that of temporary files ($TMPDIR).

    Raises:
        VkdError: the file cannot be written, or there is no space for it.
    """
    size = math.prod(shape)
    if size <= SHARE * free_memory():
        return np.empty(shape, np.uint8)
    where = Path(tempfile.gettempdir()) if folder is None else folder
    print(f"images are kept in a file in {where}: {size / 2**30:.1f} GiB, too many for memory")
    try:
        where.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=where) as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk would end the process
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.uint8, "r+" if file.seek(0, 2) else "w+", shape=shape)
    except OSError as error:
        raise VkdError(
            f"{where}: no file of {size / 2**30:.1f} GiB for images that memory does not hold "
            f"({reason(error)}); set cache to a folder with more space"
        ) from None


def rows_of(array: np.ndarray, rows: list[int], folder: Path | None = None) -> np.ndarray:
    """Returns these rows of an array of uint8, kept as in `empty`; the array itself for all."""
    if rows == list(range(len(array))):
        return array
    found = empty((len(rows), *array.shape[1:]), folder)
    for start in range(0, len(rows), BLOCK):
        found[start : start + BLOCK] = array[rows[start : start + BLOCK]]
    return found
