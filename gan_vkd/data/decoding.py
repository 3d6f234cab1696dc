"""Decodes image files to RGB, within limits of size and memory."""

import io
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial
from threading import Lock
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # no format that can run programs
MAX_MEGAPIXELS = 256  # default of data.max_megapixels
LARGE = 16_000_000  # pixels: larger images are decoded one at a time, JPEGs at a reduced scale
Image.MAX_IMAGE_PIXELS = None  # Pillow refuses 179 million: a lower limit than the setting's

_EIGHT_BITS = (np.arange(65536) / 257).round().astype(np.uint8)
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


def decode(data: bytes, resolution: int, max_megapixels: int = MAX_MEGAPIXELS) -> np.ndarray:
    """Decodes an image file to RGB.

    Grey, palette, CMYK and 16-bit images are converted, transparent ones are put on white, the EXIF
    orientation is applied, other sizes are cropped to the central square and resized (Lanczos).

    Args:
        data: the file's bytes.
        resolution: R, the side in pixels.
        max_megapixels: the largest number of pixels, in millions.

    Returns:
        (R, R, 3) uint8.

    Raises:
        BadImage: damaged, truncated, animated, not an image, or too large.
    """
    return _decoded(data, max_megapixels, resolution, partial(_square, resolution=resolution))


def open_rgb(
    data: bytes, max_megapixels: int = MAX_MEGAPIXELS, needed: int | None = None
) -> Image.Image:
    """Decodes an image file to RGB in its own size, otherwise as `decode`.

    Args:
        data: the file's bytes.
        max_megapixels: the largest number of pixels, in millions.
        needed: the shorter side in pixels that is needed: a JPEG of more than LARGE pixels is
            decoded at 1/2, 1/4 or 1/8 of its size if it stays at least twice as large. None: never.

    Raises:
        BadImage: as in `decode`.
    """
    return _decoded(data, max_megapixels, needed, lambda image: image)


def _decoded(
    data: bytes, max_megapixels: int, needed: int | None, finish: Callable[[Image.Image], T]
) -> T:
    """Returns finish(image); for a large image within the lock, so that one is in memory."""
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
                return finish(_rgb(image))
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


def _rgb(image: Image.Image) -> Image.Image:
    """Copies a large image as rarely as possible."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        image = Image.fromarray(_EIGHT_BITS[np.asarray(image).clip(0, 65535)])
    if image.mode == "F":
        raise BadImage("floating-point pixels")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _square(image: Image.Image, resolution: int) -> np.ndarray:
    if image.size != (resolution, resolution):
        # cropped first, since Pillow's resize with a box also reads pixels outside of it
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(image)
