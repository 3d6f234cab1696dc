"""Comparison of runs: tables (terminal, Markdown, CSV) and one picture of their samples."""

import math
import statistics
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from gan_vkd.evaluation.few import ADVICE, WARNINGS, warnings
from gan_vkd.evaluation.record import BESIDE, evaluation, is_evaluation
from gan_vkd.game.settings import Settings
from gan_vkd.report.arms import Tables, by_arm, over_seeds, tables, write_tables
from gan_vkd.report.pictures import class_grid, save_side_by_side
from gan_vkd.report.provenance import relation, start
from gan_vkd.report.published import published_fid
from gan_vkd.report.tables import Row, confidence, mean_and_deviation
from gan_vkd.report.unjudged import CAPTION, Unjudged, is_unjudged
from gan_vkd.run import Run
from gan_vkd.runtime.errors import VkdError

PUBLISHED = "published FID"

STATISTICS = {
    "standing": "standing batch-norm statistics, if any",
    "running": "running batch-norm statistics, if any",
    "batch": "batch-norm statistics of each batch, if any",
}


def compare(folders: list[Path], out: Path, baseline: str = "none") -> str:
    """Writes table.md, table.csv and samples.png into `out` and returns the tables as Markdown.

    Each run is a row: the Frechet distance at its first, best and last evaluation, the other
    measures at the best, and the time of an iteration. Where an arm was run at several seeds, a
    table of means, standard deviations (n - 1) and extremes over seeds comes first, with the mean
    difference to the baseline at the same seeds and its 95% confidence interval (Student's t).
    The first judge selects the best evaluation. For the other judges the Frechet distance is shown
    at that evaluation and at the last, and Kendall's tau says whether two judges order the arms
    alike. Runs on other data, or evaluated in another way (judges, reference, samples, batch norm),
    get separate tables: their numbers are never put in one column. A table's caption says whether
    its teachers have seen the judges' training images. The published figure is a column of its own,
    filled for runs with the published settings. Where no run has a judge, the table has their
    losses (gan_vkd/report/unjudged.py).

    Args:
        folders: run folders.
        out: folder for the files.
        baseline: the arm that differences are taken to.

    Raises:
        VkdError: a folder that is not a run, a run that was never evaluated, or two runs of one arm
            and seed.
    """
    runs = [Run(folder) for folder in folders]
    if all(map(is_unjudged, runs)):
        unmeasured = {CAPTION: [Unjudged.of(run) for run in runs]}
        text = write_tables(unmeasured, out, lambda group: [])
    else:
        groups = _comparable([Measured.of(run) for run in runs])
        text = write_tables(groups, out, lambda group: _over_seeds(group, baseline), _notes)
    _picture(runs, out / "samples.png")
    return text


def tables_of(runs: list["Measured"], baseline: str) -> list[Tables["Measured"]]:
    """The tables of `compare`, one for each way in which runs were evaluated."""
    return tables(_comparable(runs), lambda group: _over_seeds(group, baseline), _notes)


def _comparable(everything: list["Measured"]) -> dict[str, list["Measured"]]:
    """Groups runs whose numbers can be compared, by the caption of their table."""
    groups: dict[tuple[str, str], list[Measured]] = {}
    for measured in everything:
        identities = ", ".join(judge.identity for judge in measured.judges)
        groups.setdefault((measured.caption, identities), []).append(measured)
    several = Counter(caption for caption, _ in groups)
    captioned = {}
    for (caption, identities), group in groups.items():
        which = f"; judge {identities}" if several[caption] > 1 else ""
        teachers = [m.teacher for m in group if m.teacher is not None]
        captioned["; ".join([caption + which, *dict.fromkeys(teachers)])] = group
    return captioned


class Judge(NamedTuple):
    """The names of a judge's distances in a record, and the identity of its network."""

    frechet: str
    kernel: str
    identity: str


@dataclass(frozen=True)
class Measured:
    """A run's settings and evaluation records, oldest first.

    The records of training that were measured in the same way as the last one; for an imported
    generator, the last record of `vkd evaluate`.
    """

    settings: Settings
    records: list[dict[str, Any]]

    @staticmethod
    def of(run: Run) -> "Measured":
        if not (run.path / "settings.yaml").is_file():
            raise VkdError(f"{run.path}: not a run folder (no settings.yaml in it)")
        name, found = "metrics", list(filter(is_evaluation, run.records("metrics")))
        if not found:
            name, found = "evaluations", run.records("evaluations")[-1:]
        if not found and not run.settings().evaluate.judges:
            raise VkdError(
                f"{run.path}: no distances, since it has no judge; `vkd evaluate {run.path} "
                "evaluate.features=...` measures it"
            )
        if not found:
            raise VkdError(
                f"{run.path}: no evaluation yet; train further, or call `vkd evaluate {run.path}`"
            )
        records = [evaluation(record, run.path / f"{name}.jsonl") for record in found]
        comparable = [record for record in records if _protocol(record) == _protocol(records[-1])]
        return Measured(run.settings(), comparable)

    @property
    def identity(self) -> tuple[str, int]:
        return self.settings.arm, self.settings.seed

    @property
    def judges(self) -> list[Judge]:
        """The judge that selects the best evaluation, then the others."""
        return _judges(self.records[-1])

    @property
    def best(self) -> dict[str, Any]:
        return min(self.records, key=lambda record: record[self.judges[0].frechet])

    @property
    def warnings(self) -> list[str]:
        """What there is to warn of at the best evaluation or at the last."""
        found = warnings(self.best) + warnings(self.records[-1])
        return [warning for warning in WARNINGS if warning in found]

    @property
    def pace(self) -> float:
        """Training time of an iteration in milliseconds; nan for an imported generator."""
        last = self.records[-1]
        seconds = math.nan if last["seconds"] is None else last["seconds"]
        return 1000 * seconds / max(last["iteration"], 1)

    @property
    def published(self) -> float | None:
        """The published FID; None for settings that are not published, or an unfinished run."""
        whole = self.records[-1]["iteration"] >= self.settings.train.iterations
        return published_fid(self.settings) if whole else None

    @property
    def caption(self) -> str:
        last, data = self.records[-1], self.settings.data
        share = f", {data.fraction:.0%}" if data.fraction is not None else ""
        share = f", {data.num_images:,} images" if data.num_images is not None else share
        first, *others = names = [judge.frechet for judge in self.judges]
        chooses = f"; the best evaluation is the best by {first}" if others else ""
        return (
            f"{', '.join(names)} of {last['num_samples']:,} samples to {last['reference']} "
            f"({last['reference_images']:,} images); trained on {data.source}{share}; sampled "
            f"with {STATISTICS[_protocol(last)[1]]}{chooses}"
        )

    @property
    def teacher(self) -> str | None:
        """Whether its teacher has seen the judges' training images; None without a teacher."""
        distill = self.settings.distill
        if distill is None:
            return None
        return relation(distill.teacher, self.settings.evaluate.judges)

    def row(self) -> Row:
        (frechet, kernel, _), *others = self.judges
        first, best, last = self.records[0], self.best, self.records[-1]
        row = {
            "arm": self.settings.arm,
            "seed": str(self.settings.seed),
            f"{frechet}, best": f"{best[frechet]:.3f}",
            "at iteration": f"{best['iteration']} of {self.settings.train.iterations}",
            "last": f"{last[frechet]:.3f}",
            "first": f"{first[frechet]:.3f} ({first['iteration']})",
            f"{kernel}, best": f"{best[kernel]:.5f}",
            **{
                column: f"{record[judge.frechet]:.3f}"
                for judge in others
                for column, record in zip(_columns(judge), (best, last), strict=True)
            },
            **{name: f"{best[name]:.3f}" for name in BESIDE if name in best},
            "ms / iteration": f"{self.pace:.0f}",
        }
        if self.warnings:
            row["warnings"] = ", ".join(self.warnings)
        return row if self.published is None else row | {PUBLISHED: f"{self.published:.2f}"}


def _columns(judge: Judge) -> tuple[str, str]:
    """Column names of a further judge's distance at the best evaluation and at the last."""
    return f"{judge.frechet} at the best", f"{judge.frechet}, last"


def _over_seeds(group: list[Measured], baseline: str) -> list[Row]:
    """One row for each arm, over its seeds; no rows where every arm has one seed."""
    (frechet, *_), *others = group[0].judges
    less = f", less {baseline} at the same seed"

    def row(runs: list[Measured], pairs: list[tuple[Measured, Measured]]) -> Row:
        def difference(name: str, last: bool = False) -> str:
            """At the best evaluations, or the last; empty where no seed is common."""
            both = [[run.records[-1] if last else run.best for run in pair] for pair in pairs]
            found = [own[name] - base[name] for own, base in both]
            return confidence(found) if found else ""

        last = [run.records[-1][frechet] for run in runs]
        row = {
            "seeds": str(len(runs)),
            f"{frechet}, best": mean_and_deviation([run.best[frechet] for run in runs]),
            "last": mean_and_deviation(last),
            "least and greatest, last": f"{min(last):.3f} to {max(last):.3f}",
            f"best{less}": difference(frechet),
            f"last{less}": difference(frechet, last=True),
        }
        for judge in others:
            at_best, at_last = _columns(judge)
            row[at_best] = mean_and_deviation([run.best[judge.frechet] for run in runs])
            row[at_last] = mean_and_deviation([run.records[-1][judge.frechet] for run in runs])
            row[f"{at_best}{less}"] = difference(judge.frechet)
        if all("memorised" in run.best for run in runs):
            row["memorised"] = mean_and_deviation([run.best["memorised"] for run in runs])
        row["ms / iteration"] = f"{statistics.fmean(run.pace for run in runs):.0f}"
        found = [warning for run in runs for warning in run.warnings]
        counted = [
            f"{warning} ({found.count(warning)})" for warning in WARNINGS if warning in found
        ]
        row["warnings"] = ", ".join(counted)
        published = {run.published for run in runs}
        if len(published) == 1 and None not in published:
            row[PUBLISHED] = f"{published.pop():.2f}"
        return {column: text for column, text in row.items() if text}

    return over_seeds(group, baseline, row)


def _notes(group: list[Measured]) -> list[str]:
    """Lines below the tables: what runs started from if not anew, the judges' agreement, and what
    the runs' warnings mean."""
    found = {warning for run in group for warning in run.warnings}
    explained = [f"{w}: {why}; {ADVICE}" for w, why in WARNINGS.items() if w in found]
    return _starts(group) + _agreement(group) + explained


def _starts(group: list[Measured]) -> list[str]:
    """One line for each arm with runs that did not start anew, and for each start."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for run in group:
        if begun := start(run.settings):
            seeds.setdefault((run.settings.arm, begun), []).append(str(run.settings.seed))
    return [f"{arm}, seed {' '.join(numbers)}: {begun}" for (arm, begun), numbers in seeds.items()]


def _agreement(group: list[Measured]) -> list[str]:
    """Kendall's tau of the arms' order by any two judges, one line each; none for fewer than three
    arms."""
    arms = by_arm(group)
    if len(arms) < 3:
        return []
    from scipy.stats import kendalltau  # half a second

    means = {
        judge.frechet: [
            statistics.fmean(run.records[-1][judge.frechet] for run in runs)
            for runs in arms.values()
        ]
        for judge in group[0].judges
    }
    lines = []
    for one, other in combinations(means, 2):
        tau, p = kendalltau(means[one], means[other])
        lines.append(
            f"Kendall's tau of {one} and {other}, last, means of {len(arms)} arms: {tau:+.2f} "
            f"(p = {p:.3f}); +1 is the same order of the arms, -1 the reverse"
        )
    return lines


def _judges(record: dict[str, Any]) -> list[Judge]:
    return [
        Judge(judge["frechet_name"], judge["kernel_name"], judge["identity"])
        for judge in record["judges"]
    ]


def _protocol(record: dict[str, Any]) -> tuple[list[Judge], str]:
    """How a record was measured: its judges and the statistics of batch norm."""
    return _judges(record), record["batch_norm"]


def _picture(runs: list[Run], path: Path) -> None:
    """Writes the sample grids of the first run of each arm, side by side."""
    grids, titles = [], []
    for run in runs:
        arm = run.settings().arm
        if arm in titles:
            continue
        generator, facts = run.load_generator("cpu")
        grids.append(class_grid(generator, facts["shares"]))
        titles.append(arm)
    save_side_by_side(grids, titles, path)
