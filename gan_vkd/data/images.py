"""Reads image files of folders and zips into one uint8 array; unusable files are reported."""

import os
import stat
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path, PurePosixPath
from tempfile import NamedTemporaryFile
from typing import Protocol

import numpy as np

from gan_vkd.data.decoding import MAX_MEGAPIXELS, BadImage, decode, reads_heif
from gan_vkd.runtime.errors import VkdError

# About files that are read all the same, or refused with a reason; filters cannot be set in threads
warnings.filterwarnings("ignore", module=r"PIL\.")

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})
HEIF = frozenset({".heic", ".heif", ".hif"})  # read where pillow-heif is installed
UNREAD = frozenset(  # formats of pictures that are reported, not read
    {
        ".avif", ".jxl", ".jp2", ".j2k", ".jxr", ".jfif", ".svg", ".svgz", ".eps", ".psd", ".xcf",
        ".tga", ".exr", ".hdr", ".pgm", ".pbm", ".pnm", ".dng", ".cr2", ".cr3", ".nef", ".nrw",
        ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".x3f", ".3fr",
    }
)  # fmt: skip
OF_RUNS = frozenset({"samples", "scores", "neighbours.png"})  # pictures in a run folder
PICTURES = EXTENSIONS | HEIF | UNREAD
COMPARED = frozenset({"samples.png", "curves.png"})  # of comparisons, beside table.md and table.csv
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


def is_image(name: str) -> bool:
    """Whether a file with this name, or path within the data, is read."""
    return _suffix(name) in _read_extensions() and not any(map(_is_hidden, name.split("/")))


def _read_extensions() -> frozenset[str]:
    return EXTENSIONS | HEIF if reads_heif() else EXTENSIONS


def read_images(
    path: Path,
    resolution: int,
    damaged: str = "refuse",
    max_megapixels: int = MAX_MEGAPIXELS,
) -> tuple[np.ndarray, list[str], list[str]]:
    """Reads all images of a folder or zip, in the order of their names.

    Args:
        path: a folder or zip, flat or with one folder per class.
        resolution: R.
        damaged: "refuse" raises an error that lists unusable files, "skip" leaves them out.
        max_megapixels: larger images cannot be used.

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
                images[index] = decode(source.read(names[index]), resolution, max_megapixels)
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

    Pictures of runs and comparisons, those in hidden folders and those of formats that are not read
    are left out and reported.

    Raises:
        VkdError: no images, or some outside the class folders.
    """
    found, left_out = _split(source.names())
    if left_out:
        print(
            f"skipped: {path}: run folders, hidden folders and pictures of comparisons: "
            f"{len(left_out)} (first: {_shown(min(left_out))})"
        )
    names = sorted({name for name in found if _suffix(name) in _read_extensions()})
    advice = _advice(sorted(set(found).difference(names)))
    if not names:
        known = ", ".join(sorted(EXTENSIONS))
        raise VkdError(f"{path}: no images ({known}) in it{advice and f'; {advice}'}")
    if advice:
        print(f"skipped: {path}: {advice}")
    return names, _classes(path, names)


def _split(names: list[str]) -> tuple[list[str], set[str]]:
    """Returns the pictures among the names but for those in hidden or run folders and those of
    comparisons, and these folders and pictures."""
    folders = {name.rpartition("/")[0] for name in names}
    there = folders.union(names)

    def has(folder: str, file: str) -> bool:
        return f"{folder}/{file}".lstrip("/") in there

    settled = [folder for folder in folders if has(folder, "settings.yaml")]
    runs = {f for f in settled if any(has(f, x) for x in ("metrics.jsonl", ".lock", "checkpoints"))}
    written = OF_RUNS if "" in runs else frozenset[str]()  # trained into the folder of the data
    outputs = (runs | written) - {""}

    def outermost(folder: str) -> str:
        """The first run or hidden folder on the way to this one; "" if there is none."""
        way = accumulate(folder.split("/"), "{}/{}".format)
        return next((f for f in way if f in outputs or _is_hidden(f.rpartition("/")[2])), "")

    around = {folder: outermost(folder) for folder in folders}
    found, left_out = list[str](), set[str]()
    for name in names:
        folder, _, file = name.rpartition("/")
        if _suffix(file) not in PICTURES or _is_hidden(file):
            continue
        if around[folder]:
            left_out.add(around[folder])
        elif name in written or (
            file in COMPARED and has(folder, "table.md") and has(folder, "table.csv")
        ):
            left_out.add(name)
        else:
            found.append(name)
    return found, left_out


def _advice(names: list[str]) -> str:
    """Says what to do about pictures of formats that are not read; "" where there are none."""
    if not names:
        return ""
    heif = any(_suffix(name) in HEIF for name in names)
    return (
        f"pictures of formats that are not read: {len(names)} (first: {_shown(names[0])}); convert "
        f"them to PNG or JPEG{', or for HEIC: pip install pillow-heif' if heif else ''}"
    )


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_hidden(part: str) -> bool:
    return part not in (".", "..") and part.startswith((".", "__MACOSX"))


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
