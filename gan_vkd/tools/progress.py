"""The course of a training: the sample grids that a run has stored, in their order."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import read_bytes
from gan_vkd.tools.captions import captioned

MOST_BYTES = 64 * 2**20  # of a grid's file


def sample_grids(run: Path) -> list[tuple[int, Path]]:
    """The run's sample grids with their iterations, in order.

    Raises:
        VkdError: there is none.
    """
    files = [file for file in (run / "samples").glob("*.png") if file.stem.isdecimal()]
    if not files:
        raise VkdError(f"{run}: no sample grids (samples/*.png; see train.sample_every)")
    return sorted((int(file.stem), file) for file in files)


def progress_frames(grids: list[tuple[int, Path]], held: int) -> Iterator[Tensor]:
    """Yields the grids, uint8 (C, H, W), below their iterations; the last one `held` times.

    Raises:
        VkdError: a file is not a PNG, or of another size than the first one.
    """
    first: Tensor | None = None
    for iteration, file in grids:
        picture = _read(file)
        first = picture if first is None else first
        if picture.shape != first.shape:
            raise VkdError(f"{file}: of another size than the grids before it; move it away")
        yield from [captioned(picture[None], [f"iteration {iteration}"])] * (
            held if file == grids[-1][1] else 1
        )


def _read(file: Path) -> Tensor:
    try:
        with Image.open(io.BytesIO(read_bytes(file, MOST_BYTES)), formats=("PNG",)) as image:
            pixels = np.atleast_3d(np.array(image))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise VkdError(f"{file}: not a PNG file, or damaged ({error})") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)
