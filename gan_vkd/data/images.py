"""Reads image files of folders and zips into one uint8 array; unusable files are reported."""

import os
import stat
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Protocol

import numpy as np

from gan_vkd.data.decoding import MAX_MEGAPIXELS, BadImage, decode
from gan_vkd.data.form import Form
from gan_vkd.data.image_set import draw_subset
from gan_vkd.data.listing import list_images, printable
from gan_vkd.data.storage import empty, rows_of
from gan_vkd.data.survey import channels_needed
from gan_vkd.runtime.bars import progress_bar
from gan_vkd.runtime.errors import VkdError

# About files that are read all the same, or refused with a reason; filters cannot be set in threads
warnings.filterwarnings("ignore", module=r"PIL\.")

MAX_FILE_BYTES = 256 * 2**20
MAX_ARCHIVE_BYTES = 64 * 2**30


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
            raise BadImage(f"unreadable: {error.strerror or error}") from None


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
                raise VkdError(f"{file.filename}: {printable(name)} points out of the archive")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise VkdError(f"{file.filename}: {printable(name)} is a symbolic link")
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


def read_images(
    path: Path,
    form: Form | int,
    damaged: str = "refuse",
    max_megapixels: int = MAX_MEGAPIXELS,
    folder: Path | None = None,
    most: int | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, list[str], list[str]]:
    """Reads the images of a folder or zip, in the order of their names.

    Args:
        path: a folder or zip, flat or with one folder per class.
        form: the form of the pixels; a number R stands for RGB of R x R.
        damaged: "refuse" raises an error that lists unusable files, "skip" leaves them out.
        max_megapixels: larger images cannot be used.
        folder: for a file with the pixels if memory does not hold them (gan_vkd/data/storage.py).
        most, seed: read a stratified subset of so many images only, drawn by the seed; None: all.

    Returns:
        images (N, H, W, C) uint8, in memory as (N, C, H, W), their names, and the class of each
        (all "" for a flat set).

    Raises:
        VkdError: no such path, no images, unusable files, or images outside the class folders.
    """
    form, brightest = Form.of(form), list[int]()
    with ExitStack() as stack:
        source = open_source(path, damaged, stack)
        names, classes = list_images(path, source.names())
        if most is not None and most < len(names):
            chosen = draw_subset(names, classes, most, seed)
            names, classes = [names[i] for i in chosen], [classes[i] for i in chosen]
        if form.channels is None:
            needed = channels_needed(source.read, names, form.background, max_megapixels)
            form = replace(form, channels=needed)
        images = empty((len(names), form.channels or 3, form.height, form.width), folder)
        bad: dict[int, str] = {}

        def load(index: int) -> None:
            try:
                pixels = decode(source.read(names[index]), form, max_megapixels, brightest)
                images[index] = pixels.transpose(2, 0, 1)
            except BadImage as error:
                bad[index] = str(error)

        with ThreadPoolExecutor() as pool:
            list(progress_bar(pool.map(load, range(len(names))), "images", total=len(names)))
    if bad:
        _report(
            path, [f"{printable(names[i])} ({bad[i]})" for i in sorted(bad)], damaged, len(names)
        )
    good = [i for i in range(len(names)) if i not in bad]
    emptied = sorted(set(classes) - {classes[i] for i in good})
    if emptied:
        where = f" in class {', '.join(map(printable, emptied))}" if emptied != [""] else ""
        raise VkdError(f"{path}: no usable image is left{where}")
    if brightest and max(brightest) <= form.white / 2:
        print(
            f"{path}: {len(brightest)} images of 16 bits reach {max(brightest)} of data.white = "
            f"{form.white}, which makes them dark; for white there, set data.white={max(brightest)}"
        )
    images = rows_of(images, good, folder).transpose(0, 2, 3, 1)
    return images, [names[i] for i in good], [classes[i] for i in good]


def _report(path: Path, lines: list[str], damaged: str, total: int) -> None:
    shown = "; ".join(lines[:5])
    if len(lines) > 5:
        shown += f"; and {len(lines) - 5} more{_listed(lines)}"
    message = f"{path}: {len(lines)} of {total} images cannot be used: {shown}"
    if damaged == "refuse":
        raise VkdError(f"{message}. Repair or remove them, or set data.damaged=skip")
    print(f"skipped: {message}")


def _listed(lines: list[str]) -> str:
    """Writes the lines to a temporary file and returns where."""
    try:
        with NamedTemporaryFile(
            "w", prefix="vkd-unusable-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError:  # no space
        return ""
    return f" (all: {file.name})"


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
