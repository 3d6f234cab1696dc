"""Runs side by side: one table (terminal, Markdown, CSV) and one picture of their samples."""

import math
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan_vkd.checkpoint import write_atomically
from gan_vkd.config import Settings
from gan_vkd.errors import VkdError
from gan_vkd.pictures import class_grid, save_side_by_side
from gan_vkd.provenance import relation
from gan_vkd.published import published_fid
from gan_vkd.run import Run
from gan_vkd.tables import Row, as_csv, complete, confidence, markdown, mean_and_deviation

PUBLISHED = "published FID"
BESIDE = ("precision", "recall", "density", "coverage", "memorised", "memorised_by_chance")


def compare(folders: list[Path], out: Path, baseline: str = "none") -> str:
    """Writes table.md, table.csv and samples.png into `out` and returns the tables as Markdown.

    A row a run: the Frechet distance at its first, best and last evaluation, the other measures
    at the best, and the cost of an iteration. Where an arm was run at several seeds, a table of
    means, standard deviations (n - 1) and extremes over seeds comes first, with the mean of the
    differences to the baseline at the same seeds and its 95% confidence interval (Student's t).
    Runs on other data or measured otherwise (features, reference, samples) get tables each:
    their numbers are never put in one column. A table's caption says of its teachers whether they
    have seen the judge's training images. The published figure stands in a column of its own,
    beside runs that have the published settings.

    Args:
        folders: of the runs.
        out: where the files go.
        baseline: the arm that differences are taken to.

    Raises:
        VkdError: a folder that is no run, a run that was never evaluated, or two of one arm and
            seed.
    """
    runs = [Run(folder) for folder in folders]
    alike = _alike([Measured.of(run) for run in runs])
    for caption, group in alike.items():
        pairs = Counter((m.settings.arm, m.settings.seed) for m in group)
        arm, seed = max(pairs, key=pairs.__getitem__)
        if pairs[arm, seed] > 1:
            raise VkdError(f"two runs of arm {arm} at seed {seed} ({caption}): set another arm")
    tables = {caption: complete([m.row() for m in group]) for caption, group in alike.items()}
    parts = []
    for caption, group in alike.items():
        spread = complete(_spread(group, baseline))
        parts += [caption, *([markdown(spread)] if spread else []), markdown(tables[caption])]
    text = "\n\n".join(parts)
    write_atomically(out / "table.md", lambda file: file.write_text(text + "\n"))
    write_atomically(out / "table.csv", lambda file: file.write_text(as_csv(tables)))
    _picture(runs, out / "samples.png")
    return text


def _alike(everything: list["Measured"]) -> dict[str, list["Measured"]]:
    """Runs whose numbers can be compared, under the caption of their table."""
    groups: dict[tuple[str, str], list[Measured]] = {}
    for measured in everything:
        judge = measured.records[-1].get("judge", "")
        groups.setdefault((measured.caption, judge), []).append(measured)
    several = Counter(caption for caption, _ in groups)
    captioned = {}
    for (caption, judge), group in groups.items():
        which = f"; judge {judge}" if several[caption] > 1 else ""
        teachers = [m.teacher for m in group if m.teacher is not None]
        captioned["; ".join([caption + which, *dict.fromkeys(teachers)])] = group
    return captioned


@dataclass(frozen=True)
class Measured:
    """A run's settings and the records of its evaluations, oldest first.

    Those of training; of a generator that was imported, the last of `vkd evaluate`.
    """

    settings: Settings
    records: list[dict[str, Any]]

    @staticmethod
    def of(run: Run) -> "Measured":
        if not (run.path / "settings.yaml").is_file():
            raise VkdError(f"{run.path}: not a run folder (no settings.yaml in it)")
        records = [record for record in run.records("metrics") if "features" in record]
        records = records or run.records("evaluations")[-1:]
        if not records:
            raise VkdError(f"{run.path}: no evaluation yet; train further, or `vkd evaluate` it")
        return Measured(run.settings(), records)

    @property
    def names(self) -> tuple[str, str]:
        """What the Frechet and the kernel distance are called: by their features."""
        return _names(self.records[-1])

    @property
    def best(self) -> dict[str, Any]:
        return min(self.records, key=lambda record: record[self.names[0]])

    @property
    def pace(self) -> float:
        """Milliseconds of training an iteration; nan of one that was not trained here."""
        last = self.records[-1]
        return 1000 * last.get("seconds", math.nan) / max(last["iteration"], 1)

    @property
    def published(self) -> float | None:
        """The paper's figure; None for other settings than the published ones, or half a run."""
        whole = self.records[-1]["iteration"] >= self.settings.train.iterations
        return published_fid(self.settings) if whole else None

    @property
    def caption(self) -> str:
        last, data = self.records[-1], self.settings.data
        share = f", {data.fraction:.0%}" if data.fraction is not None else ""
        share = f", {data.num_images:,} images" if data.num_images is not None else share
        return (
            f"{self.names[0]} of {last['num_samples']:,} samples to {last['reference']} "
            f"({last['reference_images']:,} images); trained on {data.source}{share}"
        )

    @property
    def teacher(self) -> str | None:
        """What has to be known of its teacher; None without one."""
        distill = self.settings.distill
        if distill is None:
            return None
        return relation(distill.teacher, self.settings.evaluate.features)

    def row(self) -> Row:
        frechet, kernel = self.names
        first, best, last = self.records[0], self.best, self.records[-1]
        row = {
            "arm": self.settings.arm,
            "seed": str(self.settings.seed),
            f"{frechet}, best": f"{best[frechet]:.3f}",
            "at iteration": f"{best['iteration']} of {self.settings.train.iterations}",
            "last": f"{last[frechet]:.3f}",
            "first": f"{first[frechet]:.3f} ({first['iteration']})",
            f"{kernel}, best": f"{best[kernel]:.5f}",
            **{name: f"{best[name]:.3f}" for name in BESIDE if name in best},
            "ms / iteration": f"{self.pace:.0f}",
        }
        return row if self.published is None else row | {PUBLISHED: f"{self.published:.2f}"}


def _spread(group: list[Measured], baseline: str) -> list[Row]:
    """A row an arm over its seeds; none where every arm has one."""
    arms: dict[str, list[Measured]] = {}
    for measured in group:
        arms.setdefault(measured.settings.arm, []).append(measured)
    if all(len(runs) == 1 for runs in arms.values()):
        return []
    frechet, _ = group[0].names
    to_compare = {run.settings.seed: run.best[frechet] for run in arms.get(baseline, [])}
    rows = []
    for arm, runs in arms.items():
        best = [run.best[frechet] for run in runs]
        last = [run.records[-1][frechet] for run in runs]
        row = {
            "arm": arm,
            "seeds": str(len(runs)),
            f"{frechet}, best": mean_and_deviation(best),
            "last": mean_and_deviation(last),
            "least and greatest, last": f"{min(last):.3f} to {max(last):.3f}",
        }
        differences = [
            run.best[frechet] - to_compare[run.settings.seed]
            for run in runs
            if run.settings.seed in to_compare and arm != baseline
        ]
        if differences:
            row[f"best, less {baseline} at the same seed"] = confidence(differences)
        if all("memorised" in run.best for run in runs):
            row["memorised"] = mean_and_deviation([run.best["memorised"] for run in runs])
        row["ms / iteration"] = f"{statistics.fmean(run.pace for run in runs):.0f}"
        published = {run.published for run in runs}
        if len(published) == 1 and None not in published:
            row[PUBLISHED] = f"{published.pop():.2f}"
        rows.append(row)
    return rows


def _names(record: dict[str, Any]) -> tuple[str, str]:
    frechet = next(key for key in record if key.startswith(("FID", "FD(")))
    kernel = next(key for key in record if key.startswith(("KID", "KD(")))
    return frechet, kernel


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
