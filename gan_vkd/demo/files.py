"""The files that the page shows and offers for download."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp
from threading import Lock

from gan_vkd.demo.pictures import Picture
from gan_vkd.report.pictures import save_png

KEPT = 200  # folders


class Folders:
    """Makes folders for what is drawn, and removes the oldest ones, which no page shows any more.

    Args:
        top: an existing folder.
    """

    def __init__(self, top: Path) -> None:
        self.top, self._lock = top, Lock()
        self._made: list[Path] = []

    def new(self) -> Path:
        with self._lock:
            self._made.append(Path(mkdtemp(dir=self.top)))
            if len(self._made) > KEPT:
                shutil.rmtree(self._made.pop(0), ignore_errors=True)
            return self._made[-1]


def saved(pictures: Sequence[Picture], folder: Path) -> list[tuple[str, str]]:
    """Writes seedNNNNNN.png, with transparency where there is; returns paths and captions."""
    for picture in pictures:
        save_png(picture.image, folder / picture.name)
    return [(str(folder / picture.name), picture.caption) for picture in pictures]
