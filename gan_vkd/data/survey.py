"""The number of channels that a set of image files needs."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
from PIL import Image

from gan_vkd.data.decoding import BadImage, decoded, upright
from gan_vkd.data.form import SIXTEEN_BITS, flat

GREY = ("1", "L", *SIXTEEN_BITS)


def channels_needed(
    read: Callable[[str], bytes], names: Iterable[str], background: str | None, max_megapixels: int
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
        list(pool.map(look, names))
    return max(found, default=3)


def _needed(image: Image.Image, background: str | None, coloured: bool) -> int:
    """Channels that an image needs; coloured: whether its set needs three in any case."""
    if image.has_transparency_data:
        image = upright(image)
        if background is None and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            return 4
    elif image.mode in GREY:
        return 1
    if coloured:
        return 3
    pixels = np.asarray(flat(upright(image), background or "white"))
    return 1 if (pixels == pixels[..., :1]).all() else 3
