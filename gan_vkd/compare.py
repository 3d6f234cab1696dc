"""Runs side by side: one table (terminal, Markdown, CSV) and one picture of their samples."""

import csv
import io
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan_vkd.checkpoint import write_atomically
from gan_vkd.config import Settings
from gan_vkd.errors import VkdError
from gan_vkd.pictures import class_grid, save_side_by_side
from gan_vkd.run import Run

Row = dict[str, str]


def compare(folders: list[Path], out: Path) -> str:
    """Writes table.md, table.csv and samples.png into `out` and returns the table as Markdown.

    A row a run: the Frechet distance at its first, best and last evaluation, the kernel distance
    at the best, and the cost of an iteration. Where an arm was run at several seeds, a table of
    means, standard deviations (n - 1) and extremes over seeds comes first. Runs that were measured
    differently (features, reference, number of samples) get tables each: their numbers are never
    put in one column.

    Raises:
        VkdError: a folder that is no run, or a run that was never evaluated.
    """
    runs = [Run(folder) for folder in folders]
    alike: dict[str, list[Measured]] = {}
    for run in runs:
        measured = Measured.of(run)
        alike.setdefault(measured.caption, []).append(measured)
    tables = {caption: [m.row() for m in group] for caption, group in alike.items()}
    parts = []
    for caption, group in alike.items():
        spread = _spread(group)
        parts += [caption, *([_markdown(spread)] if spread else []), _markdown(tables[caption])]
    text = "\n\n".join(parts)
    write_atomically(out / "table.md", lambda file: file.write_text(text + "\n"))
    write_atomically(out / "table.csv", lambda file: file.write_text(_csv(tables)))
    _picture(runs, out / "samples.png")
    return text


@dataclass(frozen=True)
class Measured:
    """A run's settings and the records of its evaluations, oldest first, and of its best one."""

    settings: Settings
    records: list[dict[str, Any]]

    @staticmethod
    def of(run: Run) -> "Measured":
        if not (run.path / "settings.yaml").is_file():
            raise VkdError(f"{run.path}: not a run folder (no settings.yaml in it)")
        records = [record for record in run.records("metrics") if "features" in record]
        if not records:
            raise VkdError(f"{run.path}: no evaluation yet; train further")
        return Measured(run.settings(), records)

    @property
    def names(self) -> tuple[str, str]:
        """What the Frechet and the kernel distance are called: by their features."""
        return _names(self.records[-1])

    @property
    def best(self) -> dict[str, Any]:
        return min(self.records, key=lambda record: record[self.names[0]])

    @property
    def caption(self) -> str:
        last = self.records[-1]
        return (
            f"{self.names[0]} of {last['num_samples']:,} samples to {last['reference']} "
            f"({last['reference_images']:,} images)"
        )

    def row(self) -> Row:
        frechet, kernel = self.names
        first, best, last = self.records[0], self.best, self.records[-1]
        return {
            "arm": self.settings.arm,
            "seed": str(self.settings.seed),
            f"{frechet}, best": f"{best[frechet]:.3f}",
            "at iteration": f"{best['iteration']} of {self.settings.train.iterations}",
            "last": f"{last[frechet]:.3f}",
            "first": f"{first[frechet]:.3f} ({first['iteration']})",
            f"{kernel}, best": f"{best[kernel]:.5f}",
            "ms / iteration": f"{1000 * last['seconds'] / last['iteration']:.0f}",
        }


def _spread(group: list[Measured]) -> list[Row]:
    """A row an arm over its seeds; none where every arm has one."""
    arms: dict[str, list[Measured]] = {}
    for measured in group:
        arms.setdefault(measured.settings.arm, []).append(measured)
    if all(len(runs) == 1 for runs in arms.values()):
        return []
    frechet, _ = group[0].names
    rows = []
    for arm, runs in arms.items():
        best = [run.best[frechet] for run in runs]
        last = [run.records[-1][frechet] for run in runs]
        rows.append(
            {
                "arm": arm,
                "seeds": str(len(runs)),
                f"{frechet}, best": _mean_and_deviation(best),
                "last": _mean_and_deviation(last),
                "least and greatest, last": f"{min(last):.3f} to {max(last):.3f}",
            }
        )
    return rows


def _mean_and_deviation(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def _names(record: dict[str, Any]) -> tuple[str, str]:
    frechet = next(key for key in record if key == "FID" or key.startswith("FD("))
    kernel = next(key for key in record if key == "KID" or key.startswith("KD("))
    return frechet, kernel


def _markdown(rows: list[Row]) -> str:
    columns = list(rows[0])
    widths = {c: max(len(c), *(len(row[c]) for row in rows)) for c in columns}
    lines = [
        "| " + " | ".join(row[c].ljust(widths[c]) for c in columns) + " |"
        for row in [dict(zip(columns, columns, strict=True)), *rows]
    ]
    lines.insert(1, "|" + "|".join("-" * (widths[c] + 2) for c in columns) + "|")
    return "\n".join(lines)


def _csv(tables: dict[str, list[Row]]) -> str:
    text = io.StringIO()
    for caption, rows in tables.items():
        writer = csv.DictWriter(text, ["measure", *rows[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"measure": caption} | row for row in rows)
    return text.getvalue()


def _picture(runs: list[Run], path: Path) -> None:
    """The grids of the first run of each arm, beside each other."""
    grids, titles = [], []
    for run in runs:
        arm = run.settings().arm
        if arm in titles:
            continue
        generator, facts = run.load_generator("cpu")
        grids.append(class_grid(generator, facts["shares"]))
        titles.append(arm)
    save_side_by_side(grids, titles, path)
