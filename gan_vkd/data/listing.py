"""Which files of a folder or zip are images of the set, and their classes."""

import os
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path, PurePosixPath

from gan_vkd.data.decoding import reads_heif
from gan_vkd.runtime.errors import VkdError

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


def is_image(name: str) -> bool:
    """Whether a file with this name, or path within the data, is read."""
    return _suffix(name) in _read_extensions() and not any(map(_is_hidden, name.split("/")))


def _read_extensions() -> frozenset[str]:
    return EXTENSIONS | HEIF if reads_heif() else EXTENSIONS


def list_images(path: Path, files: list[str]) -> tuple[list[str], list[str]]:
    """Returns the sorted names of all images and the class folder of each ("" in a flat set).

    path is that of the folder or zip, files are the names of all files in it.

    Pictures of runs and comparisons, those in hidden folders and those of formats that are not read
    are left out and reported.

    Raises:
        VkdError: no images, or some outside the class folders.
    """
    found, left_out = _split(files)
    if left_out:
        print(
            f"skipped: {path}: run folders, hidden folders and pictures of comparisons: "
            f"{len(left_out)} (first: {printable(min(left_out))})"
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
        f"pictures of formats that are not read: {len(names)} (first: {printable(names[0])}); "
        f"convert them to PNG or JPEG{', or for HEIC: pip install pillow-heif' if heif else ''}"
    )


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _is_hidden(part: str) -> bool:
    return part not in (".", "..") and part.startswith((".", "__MACOSX"))


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
            f"{path}: {len(flat)} images are outside the class folders (first: "
            f"{printable(flat[0])}); move them into a class folder, or all images into one folder"
        )
    return [tail[0] for tail in tails]


def _common_prefix(folders: list[tuple[str, ...]]) -> int:
    def levels() -> Iterator[int]:
        for level, parts in enumerate(zip(*folders, strict=False), start=1):
            if len(set(parts)) > 1:
                return
            yield level

    return max(levels(), default=0)


def printable(name: str) -> str:
    """Returns a file's name as printable text on one line."""
    return repr(name)[1:-1]
