"""What pictures a folder or zip holds, from the headers of all files and the pixels of a few."""

import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from PIL import Image

from gan_vkd.data.decoding import FORMATS, MAX_MEGAPIXELS, reads_heif
from gan_vkd.data.form import SIXTEEN_BITS
from gan_vkd.data.images import Source, open_source
from gan_vkd.data.listing import list_images
from gan_vkd.data.survey import channels_needed, is_grey, is_transparent
from gan_vkd.runtime.bars import progress_bar
from gan_vkd.runtime.errors import VkdError

SAMPLED = 64  # pictures whose pixels are looked at, evenly spread
SIDE = 64  # pixels that JPEGs are reduced to while they are decoded
NEAR = math.log(1.1)  # of two aspects that are alike
ORIENTATION, SIDEWAYS = 0x0112, range(5, 9)  # EXIF: turned by a quarter


@dataclass(frozen=True)
class Pictures:
    """The pictures of a folder or zip.

    count: pictures with a readable header. damaged: other ones. classes: pictures of each class
    folder by name, {} for a flat set. formats: pictures of each format. smallest, largest: width
    and height of the picture of the fewest and of the most pixels. side: median of the shorter
    sides. aspect: median of width / height. alike: share within a tenth of it. square: share of
    squares. grey, deep, transparent: shares of grey (1: all are), 16-bit and (partly) transparent
    pictures.
    """

    count: int
    damaged: int = 0
    classes: dict[str, int] | None = None
    formats: dict[str, int] | None = None
    smallest: tuple[int, int] = (64, 64)
    largest: tuple[int, int] = (64, 64)
    side: float = 64
    aspect: float = 1.0
    alike: float = 1.0
    square: float = 1.0
    grey: float = 0.0
    deep: float = 0.0
    transparent: float = 0.0


class _Header(NamedTuple):
    format: str
    mode: str
    width: int
    height: int


def look(path: Path) -> Pictures:
    """Looks at all pictures of a folder or zip, as they would be read for training.

    Headers show sizes, formats and depths, and which files are no pictures; that pixels are damaged
    shows when all are decoded, for training. Grey and transparent pictures are often saved with
    three colours and with opaque pixels, so these are counted on the pixels of at most SAMPLED. If
    all of these are grey the others are looked at as well, since their colours would be lost.

    Raises:
        VkdError: no such path, no usable picture, or pictures outside the class folders.
    """
    with ExitStack() as stack:
        source = open_source(path, "skip", stack)
        names, folders = list_images(path, source.names())
        with ThreadPoolExecutor() as pool:
            headers = pool.map(lambda name: _header(source, name), names)
            found = list(progress_bar(headers, "pictures looked at", total=len(names)))
            good = [index for index, header in enumerate(found) if header is not None]
            chosen = [names[good[k]] for k in _evenly(len(good), SAMPLED)]
            pixels = [x for x in pool.map(lambda name: _pixels(source, name), chosen) if x]
        grey = _share([grey for grey, _ in pixels])
        usable = [names[index] for index in good]
        if grey == 1 and channels_needed(source.read, usable, "white", MAX_MEGAPIXELS) > 1:
            grey -= 1 / len(good)
    known = [header for header in found if header is not None]
    if not known:
        raise VkdError(f"{path}: none of its {len(names)} pictures can be read")
    sizes = sorted(((h.width, h.height) for h in known), key=lambda size: size[0] * size[1])
    aspect = median(width / height for width, height in sizes)
    classes = Counter(folders[index] for index in good)
    return Pictures(
        count=len(known),
        damaged=len(names) - len(known),
        classes={} if "" in classes else dict(classes),
        formats=dict(Counter(h.format for h in known).most_common()),
        smallest=sizes[0],
        largest=sizes[-1],
        side=median(min(size) for size in sizes),
        aspect=aspect,
        alike=_share([abs(math.log(w / h / aspect)) < NEAR for w, h in sizes]),
        square=_share([width == height for width, height in sizes]),
        grey=grey,
        deep=_share([h.mode in SIXTEEN_BITS for h in known]),
        transparent=_share([transparent for _, transparent in pixels]),
    )


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / max(len(flags), 1)


def _evenly(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, evenly spread."""
    return [k * count // min(count, most) for k in range(min(count, most))]


@contextmanager
def _opened(source: Source, name: str) -> Iterator[Image.Image]:
    formats = (*FORMATS, "HEIF") if reads_heif() else FORMATS
    with Image.open(io.BytesIO(source.read(name)), formats=formats) as image:
        yield image


def _header(source: Source, name: str) -> _Header | None:
    """None for a file that is no picture, or one that is animated or too large."""
    try:
        with _opened(source, name) as image:
            if getattr(image, "n_frames", 1) > 1 and image.format not in ("MPO", "HEIF"):
                return None
            if image.width * image.height > MAX_MEGAPIXELS * 1_000_000:
                return None
            turned = image.getexif().get(ORIENTATION) in SIDEWAYS
            width, height = image.size[::-1] if turned else image.size
            return _Header(str(image.format), image.mode, width, height)
    except Exception:  # BadImage, and decoders raise errors of any kind on bad bytes
        return None


def _pixels(source: Source, name: str) -> tuple[bool, bool] | None:
    """Whether a picture is grey, and whether it is transparent anywhere; None if damaged."""
    try:
        with _opened(source, name) as image:
            image.draft("RGB", (SIDE, SIDE))
            image.load()
            return is_grey(image), is_transparent(image)
    except Exception:  # as above
        return None
