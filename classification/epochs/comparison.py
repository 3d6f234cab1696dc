"""Comparison of runs of several arms: tables over runs and over seeds, and curves."""

import math
import statistics
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from classification.epochs.settings import EpochRunSettings
from gan_vkd.report.arms import Tables, over_seeds, tables, write_tables
from gan_vkd.report.figures import label, save_figure
from gan_vkd.report.tables import Row, confidence, in_line, mean_and_deviation
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.facts import Count, Facts, checked
from gan_vkd.runtime.folder import RunFolder

Percent = Annotated[float, Field(ge=0, le=100.1)]  # after rounding


class EvaluationFacts(Facts):
    """The keys that every record of an evaluation has."""

    iteration: Count
    epoch: Annotated[float, Field(ge=0, lt=2**53)]
    images: Count


class Measured(ABC):
    """A run's evaluations, oldest first, and its speed in images per second.

    key: the main measure in the records; higher is better. name: its column. facts: the type of the
    records.

    Raises:
        VkdError: a folder that is not a run, or was never evaluated.
    """

    key: ClassVar[str]
    name: ClassVar[str]
    facts: ClassVar[type[EvaluationFacts]]
    settings: EpochRunSettings

    def __init__(self, run: RunFolder) -> None:
        if not (run.path / "settings.yaml").is_file():
            raise VkdError(f"{run.path}: not a run folder (no settings.yaml in it)")
        records = run.records("metrics")
        file = run.path / "metrics.jsonl"
        self.evaluations = [checked(self.facts, r, file) for r in records if self.key in r]
        if not self.evaluations:
            raise VkdError(f"{run.path}: no evaluation yet; train further")
        logged = [record.get("images_per_second") for record in records]
        speeds = [x for x in logged if isinstance(x, int | float) and 0 <= x < math.inf]
        self.speed = float(statistics.median(speeds)) if speeds else 0.0

    @property
    @abstractmethod
    def caption(self) -> str:
        """The caption of the run's table. Only runs with the same caption are put in one table."""

    @property
    @abstractmethod
    def teachers(self) -> str: ...

    @abstractmethod
    def numbers(self) -> dict[str, float]:
        """The columns of the table, measured after the last epoch."""

    @property
    def compared(self) -> list[str]:
        """The columns whose differences to the baseline are shown too."""
        return [self.name]

    @property
    def last(self) -> dict[str, Any]:
        return self.evaluations[-1]

    @property
    def identity(self) -> tuple[str, int]:
        return self.settings.arm, self.settings.seed

    def row(self) -> Row:
        best = max(self.evaluations, key=lambda record: record[self.key])
        arm, seed = self.identity
        return {
            "arm": arm,
            "seed": str(seed),
            "teachers": self.teachers,
            **{name: f"{value:.2f}" for name, value in self.numbers().items()},
            f"best {self.name}": f"{best[self.key]:.2f} (epoch {best['epoch']:g})",
            "epochs": f"{self.last['epoch']:g} of {self.settings.train.epochs}",
            "images / s": f"{self.speed:.1f}",
        }


def compare(runs: Sequence[Measured], out: Path, baseline: str = "plain") -> str:
    """Writes table.md, table.csv and curves.png into `out` and returns the tables as Markdown.

    Each run is a row: the measures after the last epoch, and the best one, which is selected on the
    images that it is measured on. Where an arm was run at several seeds, a table of means, standard
    deviations (n - 1) and mean differences to the baseline at the same seeds comes first, with 95%
    intervals (Student's t). Runs on other images get separate tables.

    Raises:
        VkdError: two runs of one arm and seed.
    """
    groups = _by_caption(runs)
    text = write_tables(groups, out, lambda group: _over_seeds(group, baseline))
    _curves(groups, out / "curves.png")
    return text


def tables_of(runs: Sequence[Measured], baseline: str) -> list[Tables[Measured]]:
    """The tables of `compare`, one for each set of images."""
    return tables(_by_caption(runs), lambda group: _over_seeds(group, baseline))


def _by_caption(runs: Sequence[Measured]) -> dict[str, list[Measured]]:
    groups: dict[str, list[Measured]] = {}
    for run in runs:
        groups.setdefault(run.caption, []).append(run)
    return groups


def _over_seeds(group: list[Measured], baseline: str) -> list[Row]:
    """One row for each arm, over its seeds; no rows where every arm has one seed."""

    def row(runs: list[Measured], pairs: list[tuple[Measured, Measured]]) -> Row:
        row = {"teachers": runs[0].teachers, "seeds": str(len(runs))}
        numbers = [run.numbers() for run in runs]
        for name in dict.fromkeys(name for measured in numbers for name in measured):
            values = [measured[name] for measured in numbers if name in measured]
            few = f" (of {len(values)} runs)" if len(values) < len(runs) else ""
            row[name] = mean_and_deviation(values) + few
        row["images / s"] = f"{statistics.fmean(run.speed for run in runs):.1f}"
        both = [(own.numbers(), base.numbers()) for own, base in pairs]
        for name in runs[0].compared:
            found = [own[name] - base[name] for own, base in both if name in own and name in base]
            if found:
                row[f"{name}, less {baseline} at the same seed"] = confidence(found)
        return row

    return over_seeds(group, baseline, row)


def _curves(groups: dict[str, list[Measured]], path: Path) -> None:
    """Plots the main measure over epochs: one line per run, one colour per arm."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(groups), figsize=(7 * len(groups), 5), squeeze=False)
    for axis, (caption, group) in zip(axes[0], groups.items(), strict=True):
        arms = list(dict.fromkeys(run.identity[0] for run in group))
        for run in group:
            arm = run.identity[0]
            first = run is next(other for other in group if other.identity[0] == arm)
            axis.plot(
                [record["epoch"] for record in run.evaluations],
                [record[run.key] for record in run.evaluations],
                color=f"C{arms.index(arm) % 10}",
                label=label(arm) if first else "_",
            )
        axis.set(xlabel="epoch", ylabel=f"{group[0].name} in percent")
        lines = textwrap.wrap(in_line(caption)[:500], 90)
        axis.set_title("\n".join(label(line, 90) for line in lines), fontsize=7)
        axis.legend()
    save_figure(figure, path, dpi=120)
    plt.close(figure)
