"""Reads image files of folders and zips into one uint8 array; unusable files are reported."""

import io
import os
import stat
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from gan_vkd.runtime.errors import VkdError

# About files that are read all the same, or refused with a reason; filters cannot be set in threads
warnings.filterwarnings("ignore", module=r"PIL\.")

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # no format that can run programs
MAX_PIXELS = 64_000_000
MAX_FILE_BYTES = 256 * 2**20
MAX_ARCHIVE_BYTES = 64 * 2**30


class BadImage(Exception):
    """An image file that cannot be used; the message is the reason."""


class Source(Protocol):
    """A folder or zip with named files."""

    def names(self) -> list[str]: ...
    def read(self, name: str) -> bytes: ...


class FolderSource:
    """A folder. Linked folders are followed once each; damaged="skip" skips unreadable ones."""

    def __init__(self, path: Path, damaged: str = "refuse") -> None:
        self.path, self.damaged = path, damaged

    def names(self) -> list[str]:
        found: list[Path] = []
        visited: set[str] = set()
        for folder, subfolders, files in os.walk(self.path, True, self._unreadable, True):
            real = os.path.realpath(folder)
            if real in visited:
                subfolders.clear()
                continue
            visited.add(real)
            found += [Path(folder, file) for file in files]
        return [file.relative_to(self.path).as_posix() for file in found]

    def _unreadable(self, error: OSError) -> None:
        message = f"{error.filename}: cannot be read ({error.strerror})"
        if self.damaged == "refuse":
            raise VkdError(f"{message}. Make it readable, or set data.damaged=skip")
        print(f"skipped: {message}")

    def read(self, name: str) -> bytes:
        file = self.path / name
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                raise BadImage("not a regular file")
            size = status.st_size
            if size > MAX_FILE_BYTES:
                raise BadImage(f"{size / 2**20:.0f} MiB, more than {MAX_FILE_BYTES >> 20}")
            return file.read_bytes()
        except OSError as error:
            raise BadImage(error.strerror or str(error)) from None


class ZipSource:
    """A zip. Its members are decoded in memory and never extracted, so no other file is at risk.

    Raises:
        VkdError: suspicious members: paths that leave the archive, links, or more data than
            MAX_ARCHIVE_BYTES in total.
    """

    def __init__(self, file: zipfile.ZipFile) -> None:
        self.file = file
        for info in file.infolist():
            name = info.filename.replace("\\", "/")
            if name.startswith("/") or name[1:2] == ":" or ".." in name.split("/"):
                raise VkdError(f"{file.filename}: {_shown(name)} points out of the archive")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise VkdError(f"{file.filename}: {_shown(name)} is a symbolic link")
        declared = sum(info.file_size for info in file.infolist())
        if declared > MAX_ARCHIVE_BYTES:
            raise VkdError(
                f"{file.filename}: declares {declared / 2**30:.0f} GiB, more than "
                f"{MAX_ARCHIVE_BYTES >> 30}; unpack it and give the folder"
            )

    def names(self) -> list[str]:
        return [info.filename for info in self.file.infolist() if not info.is_dir()]

    def read(self, name: str) -> bytes:
        declared = self.file.getinfo(name).file_size
        if declared > MAX_FILE_BYTES:
            raise BadImage(f"declares {declared / 2**20:.0f} MiB, more than {MAX_FILE_BYTES >> 20}")
        try:
            return self.file.read(name)
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise BadImage(str(error)) from None
        except Exception as error:  # zlib.error and others of the decompressors
            raise BadImage(f"damaged in the archive ({error})") from None


def decode(data: bytes, resolution: int) -> np.ndarray:
    """Decodes an image file to RGB.

    Grey, palette, CMYK and 16-bit images are converted, transparent ones are put on white, the EXIF
    orientation is applied, other sizes are cropped to the central square and resized (Lanczos).

    Args:
        data: the file's bytes.
        resolution: R, the side in pixels.

    Returns:
        (R, R, 3) uint8.

    Raises:
        BadImage: damaged, truncated, animated, not an image, or more than MAX_PIXELS.
    """
    return _square(open_rgb(data), resolution)


def open_rgb(data: bytes) -> Image.Image:
    """Decodes an image file to RGB in its own size, otherwise as `decode`.

    Raises:
        BadImage: as in `decode`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImage(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS}")
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # a camera's JPEG with an embedded preview
                raise BadImage(f"animated or of several pages ({frames} frames)")
            return _rgb(image)
    except UnidentifiedImageError:
        raise BadImage("not an image" if data else "empty file") from None
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadImage(f"damaged ({error})") from None
    except BadImage:
        raise
    except Exception as error:  # decoders raise struct.error, IndexError, KeyError on bad bytes
        raise BadImage(f"damaged ({type(error).__name__}: {error})") from None


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.mode == "F":
        raise BadImage("floating-point pixels")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _square(image: Image.Image, resolution: int) -> np.ndarray:
    if image.size != (resolution, resolution):
        # cropped first, since Pillow's resize with a box also reads pixels outside of it
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(image)


def is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts if part != "..")
    return path.suffix.lower() in EXTENSIONS and not hidden


def read_images(
    path: Path, resolution: int, damaged: str = "refuse"
) -> tuple[np.ndarray, list[str], list[str]]:
    """Reads all images of a folder or zip, in the order of their names.

    Args:
        path: a folder or zip, flat or with one folder per class.
        resolution: R.
        damaged: "refuse" raises an error that lists unusable files, "skip" leaves them out.

    Returns:
        images (N, R, R, 3) uint8, their names, and the class of each (all "" for a flat set).

    Raises:
        VkdError: no such path, no images, unusable files, or images outside the class folders.
    """
    with ExitStack() as stack:
        source = open_source(path, damaged, stack)
        names, classes = list_images(path, source)
        images = np.empty((len(names), resolution, resolution, 3), np.uint8)
        bad: dict[int, str] = {}

        def load(index: int) -> None:
            try:
                images[index] = decode(source.read(names[index]), resolution)
            except BadImage as error:
                bad[index] = str(error)

        with ThreadPoolExecutor() as pool:
            list(pool.map(load, range(len(names))))
    if bad:
        _report(path, [f"{_shown(names[i])} ({bad[i]})" for i in sorted(bad)], damaged, len(names))
    good = [i for i in range(len(names)) if i not in bad]
    emptied = sorted(set(classes) - {classes[i] for i in good})
    if emptied:
        where = f" in class {', '.join(map(_shown, emptied))}" if emptied != [""] else ""
        raise VkdError(f"{path}: no usable image is left{where}")
    return images[good], [names[i] for i in good], [classes[i] for i in good]


def list_images(path: Path, source: Source) -> tuple[list[str], list[str]]:
    """Returns the sorted names of all images and the class folder of each ("" in a flat set).

    Raises:
        VkdError: no images, or some outside the class folders.
    """
    names = sorted(set(filter(is_image, source.names())))
    if not names:
        raise VkdError(f"{path}: no images ({', '.join(sorted(EXTENSIONS))}) in it")
    return names, _classes(path, names)


def _report(path: Path, lines: list[str], damaged: str, total: int) -> None:
    shown = "; ".join(lines[:5]) + (f"; and {len(lines) - 5} more" if len(lines) > 5 else "")
    message = f"{path}: {len(lines)} of {total} images cannot be used: {shown}"
    if damaged == "refuse":
        raise VkdError(f"{message}. Repair or remove them, or set data.damaged=skip")
    print(f"skipped: {message}")


def _shown(name: str) -> str:
    """Returns a file's name as printable text on one line."""
    return repr(name)[1:-1]


def open_source(path: Path, damaged: str, stack: ExitStack) -> Source:
    """Opens a folder or zip; the zip is closed with the stack.

    Raises:
        VkdError: the path is neither.
    """
    if path.is_dir():
        return FolderSource(path, damaged)
    if not path.exists():
        raise VkdError(
            f"{path}: no such folder or zip; set data.source, data.heldout or evaluate.reference"
        )
    try:
        return ZipSource(stack.enter_context(zipfile.ZipFile(path)))
    except (zipfile.BadZipFile, OSError) as error:
        raise VkdError(f"{path}: neither a folder nor a readable zip ({error})") from None


def _classes(path: Path, names: list[str]) -> list[str]:
    """Returns the class folder of each image: the first level below the folder they all share."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    shared = _common_prefix(folders)
    tails = [parts[shared:] for parts in folders]
    flat = [name for name, tail in zip(names, tails, strict=True) if not tail]
    if len(flat) == len(names):
        return [""] * len(names)
    if flat:
        raise VkdError(
            f"{path}: {len(flat)} images are outside the class folders (first: {_shown(flat[0])}); "
            "move them into a class folder, or all images into one folder"
        )
    return [tail[0] for tail in tails]


def _common_prefix(folders: list[tuple[str, ...]]) -> int:
    def levels() -> Iterator[int]:
        for level, parts in enumerate(zip(*folders, strict=False), start=1):
            if len(set(parts)) > 1:
                return
            yield level

    return max(levels(), default=0)
