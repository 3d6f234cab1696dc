"""Scalars as CSV, one a row; images and histograms are left out.

In pandas: `pd.read_csv(RUN / "scalars.csv").pivot(index="iteration", columns="name",
values="value")`.
"""

import csv
import io
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from gan_vkd.runtime.files import NO_LINK, read_text, write_text
from gan_vkd.runtime.loggers.interface import FallibleLogger

HEADER = ["iteration", "name", "value"]
MOST = 2**30  # bytes of a file


class ScalarsCSV(FallibleLogger):
    """Appends rows to a file; what a resumed run or a rollback repeats is replaced.

    Args:
        file: the CSV file.
        first: the first iteration to be logged.
    """

    what: ClassVar[str] = "scalars"

    def __init__(self, file: Path, first: int) -> None:
        super().__init__(file)
        self.file = file
        self._last, self._names = 0, set[str]()  # of the last rows
        with self._ending_on_failure():
            self._rewrite(first, ())

    def scalars(self, prefix: str, values: dict[str, Any], iteration: int) -> None:
        rows = {f"{prefix}/{k}": v for k, v in values.items() if isinstance(v, float)}
        with self._ending_on_failure():
            if not self.open or not rows:
                return
            if iteration < self._last or (iteration == self._last and self._names & rows.keys()):
                self._rewrite(iteration + 1, rows)
            if iteration != self._last:
                self._last, self._names = iteration, set()
            self._names |= rows.keys()
            flags = os.O_WRONLY | os.O_APPEND | NO_LINK
            with os.fdopen(os.open(self.file, flags), "a", encoding="utf-8", newline="") as file:
                file.write(_lines([[iteration, name, value] for name, value in rows.items()]))

    def _rewrite(self, first: int, replaced: Collection[str]) -> None:
        """Drops rows from iteration `first` on, and those of the one before with these names."""
        kept = []
        for row in self._rows():
            iteration = int(row[0])
            if iteration < first - 1 or (iteration == first - 1 and row[1] not in replaced):
                kept.append(row)
        self._last = max((int(row[0]) for row in kept), default=0)
        self._names = {row[1] for row in kept if int(row[0]) == self._last}
        write_text(self.file, _lines([HEADER, *kept]))

    def _rows(self) -> list[list[str]]:
        """The rows of the file; without those that a crash truncated."""
        rows = []
        if os.path.lexists(self.file):
            for row in csv.reader(read_text(self.file, MOST).splitlines()):
                with suppress(ValueError, IndexError):
                    int(row[0]), float(row[2])
                    rows.append(row)
        return rows


def _lines(rows: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
