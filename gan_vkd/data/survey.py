"""Which images are grey or transparent, and the number of channels that a set of files needs."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
from PIL import Image

from gan_vkd.data.decoding import BadImage, decoded, upright
from gan_vkd.data.form import SIXTEEN_BITS, flat
from gan_vkd.runtime.bars import progress_bar

GREY = ("1", "L", *SIXTEEN_BITS)
ROUNDED = 2  # levels by which the channels of a grey pixel may differ: lossy formats round


def channels_needed(
    read: Callable[[str], bytes], names: Sequence[str], background: str | None, max_megapixels: int
) -> int:
    """Returns 1 if all images are grey, 4 if any is transparent in some pixel, else 3.

    Files that cannot be used are ignored. Of most files the header is enough.

    Args:
        read: returns the bytes of a file.
        names: of the files.
        background: colour that transparency is put on; None: it is kept.
        max_megapixels: as in `decode`.
    """
    found = set[int]()

    def look(name: str) -> None:
        if 4 not in found:
            with suppress(BadImage):
                found.add(decoded(read(name), max_megapixels, 1, needed))

    def needed(image: Image.Image) -> int:
        return _needed(image, background, 3 in found)

    with ThreadPoolExecutor() as pool:
        list(progress_bar(pool.map(look, names), "channels of images", total=len(names)))
    return max(found, default=3)


def _needed(image: Image.Image, background: str | None, coloured: bool) -> int:
    """Channels that an image needs; coloured: whether its set needs three in any case."""
    if background is None and image.has_transparency_data and is_transparent(upright(image)):
        return 4
    if image.mode in GREY and not image.has_transparency_data:
        return 1
    return 1 if not coloured and is_grey(upright(image), background or "white") else 3


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel of a loaded image is transparent."""
    alpha = np.asarray(image.convert("RGBA"))[..., 3] if image.has_transparency_data else None
    return alpha is not None and bool(alpha.min() < 255)


def is_grey(image: Image.Image, background: str = "white") -> bool:
    """Whether a loaded image is grey in all pixels, with transparency on the background."""
    if image.mode in GREY and not image.has_transparency_data:
        return True
    return bool(np.ptp(np.asarray(flat(image, background)), axis=2).max() <= ROUNDED)
