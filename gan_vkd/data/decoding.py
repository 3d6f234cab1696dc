"""Decodes image files, within limits of size and memory."""

import io
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from threading import Lock
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gan_vkd.data.form import SIXTEEN_BITS, Form, eight_bits, flat, formed

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # no format that can run programs
MAX_MEGAPIXELS = 256  # default of data.max_megapixels
LARGE = 16_000_000  # pixels: larger images are decoded one at a time, JPEGs at a reduced scale
Image.MAX_IMAGE_PIXELS = None  # Pillow refuses 179 million: a lower limit than the setting's

_one_large = Lock()
T = TypeVar("T")


class BadImage(Exception):
    """An image file that cannot be used; the message is the reason."""


@cache
def reads_heif() -> bool:
    """Whether HEIC and HEIF files are read: pillow-heif is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def decode(
    data: bytes,
    form: Form | int,
    max_megapixels: int = MAX_MEGAPIXELS,
    brightest: list[int] | None = None,
) -> np.ndarray:
    """Decodes an image file, applies its EXIF orientation and brings it into a form.

    Args:
        data: the file's bytes.
        form: the form of the pixels; a number R stands for RGB of R x R.
        max_megapixels: the largest number of pixels, in millions.
        brightest: gets the largest value of a grey of 16 bits appended.

    Returns:
        (H, W, C) uint8.

    Raises:
        BadImage: damaged, truncated, animated, not an image, or too large.
    """
    form = Form.of(form)

    def finish(image: Image.Image) -> np.ndarray:
        image = upright(image)
        if brightest is not None and image.mode in SIXTEEN_BITS:
            brightest.append(int(np.asarray(image).max()))
        return formed(image, form)

    return decoded(data, max_megapixels, max(form.height, form.width), finish)


def open_rgb(
    data: bytes, max_megapixels: int = MAX_MEGAPIXELS, needed: int | None = None
) -> Image.Image:
    """Decodes an image file to RGB in its own size, with transparency on white.

    Args:
        data: the file's bytes.
        max_megapixels: the largest number of pixels, in millions.
        needed: the shorter side in pixels that is needed: a JPEG of more than LARGE pixels is
            decoded at 1/2, 1/4 or 1/8 of its size if it stays at least twice as large. None: never.

    Raises:
        BadImage: as in `decode`.
    """
    return decoded(data, max_megapixels, needed, lambda image: flat(eight_bits(upright(image))))


def decoded(
    data: bytes, max_megapixels: int, needed: int | None, finish: Callable[[Image.Image], T]
) -> T:
    """Returns finish(image) of the opened file; for a large image within the lock, so that one is
    in memory. `needed` and errors are those of `open_rgb`."""
    formats = (*FORMATS, "HEIF") if reads_heif() else FORMATS
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            pixels = image.width * image.height
            if pixels > max_megapixels * 1_000_000:
                raise BadImage(
                    f"{image.width}x{image.height} pixels, more than data.max_megapixels = "
                    f"{max_megapixels}"
                )
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format not in ("MPO", "HEIF"):  # a camera's, with previews
                raise BadImage(f"animated or of several pages ({frames} frames)")
            with _one_large if pixels > LARGE else nullcontext():
                if pixels > LARGE and needed is not None:
                    image.draft(None, (2 * needed, 2 * needed))
                return finish(image)
    except UnidentifiedImageError:
        raise BadImage("not an image" if data else "empty file") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadImage(f"damaged ({error})") from None
    except MemoryError:
        raise BadImage("not enough memory to decode it") from None
    except BadImage:
        raise
    except Exception as error:  # decoders raise struct.error, IndexError, KeyError on bad bytes
        raise BadImage(f"damaged ({type(error).__name__}: {error})") from None


def upright(image: Image.Image) -> Image.Image:
    """Reads the pixels and applies the EXIF orientation; a large image is not copied."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F":
        raise BadImage("floating-point pixels")
    return image
