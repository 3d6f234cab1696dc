"""What a page shows of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

from gan_vkd.report.arms import Compared
from gan_vkd.report.tables import Row
from gan_vkd.runtime.settings import RunSettings

MOST_CHARACTERS = 200  # of a setting in the table of those that differ
MOST_IN_A_NAME = 100  # characters of a record's key that is drawn
LARGEST = 1e100  # number that is drawn

# numbers in records that are no measures
NOT_DRAWN = (
    "iteration", "seconds", "rollbacks", "from", "epoch", "images", "num_samples", "sample_seed",
    "reference_images", "training_images", "hours_left",
)  # fmt: skip

Measured = TypeVar("Measured", bound=Compared)
Series = list[tuple[int, float]]  # iteration and value, in the order of the records


@dataclass
class View(Generic[Measured]):
    """A run as far as it can be read.

    name: arm and seed, or the folder's name. state: in words. missing: a line for each thing that
    could not be read.
    """

    folder: Path
    name: str
    state: str
    settings: RunSettings | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    measured: Measured | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def arm(self) -> str:
        return self.name if self.settings is None else self.settings.arm

    @property
    def iteration(self) -> int:
        return max((record["iteration"] for record in self.records), default=0)

    @property
    def seconds(self) -> float:
        """Of training."""
        return max((record["seconds"] or 0.0 for record in self.records), default=0.0)

    def row(self) -> Row:
        """The line of the run in the page's first table."""
        row = {"run": self.name, "state": self.state, "iterations": f"{self.iteration:,}"}
        if self.settings is not None:
            row["length"] = self.settings.length
        if self.iteration:
            row["training"] = str(timedelta(seconds=round(self.seconds)))
            row["ms / iteration"] = f"{1000 * self.seconds / self.iteration:.0f}"
        peaks = [
            record["memory_gib"] for record in self.records if _is_number(record, "memory_gib")
        ]
        if peaks:
            row["peak memory"] = f"{max(peaks):.2f} GiB"
        return row

    def warnings(self) -> list[str]:
        """A line for each rollback after a value that was not finite."""
        return [
            f"{self.name}: {str(record['tensor'])[:100]} was not finite; rolled back to iteration "
            f"{record['iteration']}, with smaller learning rates"
            for record in self.records
            if "tensor" in record
        ]

    def series(self) -> dict[str, Series]:
        """The numbers of the records by name, and the time of an iteration."""
        found: dict[str, Series] = {}
        for record in self.records:
            for name in record:
                if name not in NOT_DRAWN and _is_number(record, name):
                    found.setdefault(name, []).append((record["iteration"], float(record[name])))
        pace = self._pace()
        return found | ({"ms_per_iteration": pace} if pace else {})

    def _pace(self) -> Series:
        stamps = [(r["iteration"], r["seconds"]) for r in self.records if r["seconds"] is not None]
        pairs = zip([(0, 0.0), *stamps], stamps, strict=False)
        return [
            (now, 1000 * (seconds - then) / (now - before))
            for (before, then), (now, seconds) in pairs
            if now > before and seconds >= then
        ]


def differing(views: Sequence[View[Any]]) -> list[Row]:
    """The settings in which the runs differ, one row for each key."""
    known = {v.name: _leaves(v.settings.model_dump(mode="json")) for v in views if v.settings}
    keys = dict.fromkeys(key for values in known.values() for key in values)
    rows = [
        {"setting": key} | {name: _cut(values.get(key, "")) for name, values in known.items()}
        for key in keys
    ]
    return [row for row in rows if len({*list(row.values())[1:]}) > 1]


def _leaves(node: Any, name: str = "") -> dict[str, Any]:
    """The values of a tree by their dotted keys."""
    if not isinstance(node, dict | list) or not node:
        return {name: node}
    items = node.items() if isinstance(node, dict) else enumerate(node)
    dot = "." if name else ""
    return {k: v for key, value in items for k, v in _leaves(value, f"{name}{dot}{key}").items()}


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."


def name_apart(views: Sequence[View[Any]]) -> None:
    """Adds the number of the run to names that several runs have."""
    names = [v.name for v in views]
    for number, shown in enumerate(views, 1):
        if names.count(shown.name) > 1:
            shown.name = f"{shown.name} (run {number})"


def _is_number(record: dict[str, Any], name: str) -> bool:
    value: Any = record.get(name)
    return type(value) in (int, float) and abs(value) <= LARGEST and len(name) <= MOST_IN_A_NAME
