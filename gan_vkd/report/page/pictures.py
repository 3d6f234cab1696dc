"""Images of a page: embedded, or referenced in the run folder that the page lies in."""

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from gan_vkd.data.decoding import MAX_MEGAPIXELS, BadImage, open_rgb
from gan_vkd.data.images import MAX_FILE_BYTES
from gan_vkd.report.page.views import View
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import read_bytes, reason

NUMBERED = re.compile(r"\d{8,15}\.png")  # names of samples and scores: the iteration
MOST_FRAMES = 12  # of a run and folder, the first and the last among them
MOST_TOGETHER = 96  # of all runs and a folder
SIDE = 800  # pixels: longer sides are scaled down to it
QUALITY = 85  # of WebP


@dataclass(frozen=True)
class Frame:
    """An image of a run. source: its data or its relative address. iteration: None where it has
    none."""

    source: str
    text: str
    iteration: int | None = None


@dataclass(frozen=True)
class Strip:
    """Images under one heading: the frames of each run by its name.

    is_plot: dark on white, so that a dark page may invert it.
    """

    title: str
    about: str
    frames: dict[str, list[Frame]]
    is_plot: bool = False

    @property
    def steps(self) -> list[int]:
        """The iterations of the slider."""
        found = {frame.iteration for frames in self.frames.values() for frame in frames}
        return sorted(step for step in found if step is not None)


Source = Callable[[Path, Path], str]  # (run folder, file in it) -> source of a frame


def embedded(folder: Path, file: Path) -> str:
    """The image as a data URI: WebP, of at most SIDE pixels a side.

    Raises:
        VkdError: it cannot be read or decoded, or is a link.
    """
    if file.is_symlink():
        raise VkdError(f"{file}: a symbolic link, not followed")
    try:
        image = open_rgb(read_bytes(file, MAX_FILE_BYTES), MAX_MEGAPIXELS, SIDE)
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    except BadImage as error:
        raise VkdError(f"{file}: {error}") from None
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def relative(folder: Path, file: Path) -> str:
    """The file's address, for a page in the run folder."""
    return file.relative_to(folder).as_posix()


def strip(
    title: str,
    about: str,
    views: Sequence[View[Any]],
    subfolder: str,
    source: Source,
    is_plot: bool = False,
) -> Strip:
    """The numbered images of a subfolder of each run; what cannot be read is noted in the views."""
    most = max(2, min(MOST_FRAMES, MOST_TOGETHER // len(views)))
    frames = {
        v.name: [
            frame
            for file in evenly(_numbered(v, subfolder), most)
            for frame in _frames(v, file, int(file.stem), source)
        ]
        for v in views
    }
    return Strip(title, about, frames, is_plot)


def single(title: str, about: str, views: Sequence[View[Any]], name: str, source: Source) -> Strip:
    """One image file of each run, where it is there."""
    there = [v for v in views if (v.folder / name).exists()]
    frames = {v.name: _frames(v, v.folder / name, None, source) for v in there}
    return Strip(title, about, frames)


def evenly(files: Sequence[Path], most: int) -> list[Path]:
    """At most `most` of the files, evenly spread, with the first and the last."""
    if len(files) <= most:
        return list(files)
    return [files[round(i * (len(files) - 1) / (most - 1))] for i in range(most)]


def _numbered(shown: View[Any], subfolder: str) -> list[Path]:
    folder = shown.folder / subfolder
    if folder.is_symlink():
        shown.missing.append(f"{folder}: a symbolic link, not followed")
        return []
    try:
        files = [file for file in folder.iterdir() if NUMBERED.fullmatch(file.name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        shown.missing.append(f"{folder}: cannot be read ({reason(error)})")
        return []
    return sorted(files, key=lambda file: int(file.stem))


def _frames(shown: View[Any], file: Path, iteration: int | None, source: Source) -> list[Frame]:
    try:
        found = source(shown.folder, file)
    except VkdError as error:
        shown.missing.append(str(error))
        return []
    what, where = file.stem, ""
    if iteration is not None:
        what, where = file.parent.name, f" at iteration {iteration}"
    return [Frame(found, f"{what} of {shown.name}{where}", iteration)]
