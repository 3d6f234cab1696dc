"""Classification runs side by side: tables over runs and over seeds, and the curves of top-1."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classification.config import ClassifierSettings
from classification.run import Run
from gan_vkd.checkpoint import write_atomically
from gan_vkd.errors import VkdError
from gan_vkd.tables import Row, as_csv, complete, confidence, markdown, mean_and_deviation


@dataclass(frozen=True)
class Measured:
    """A run's settings, its evaluations, oldest first, and its pace in images a second."""

    settings: ClassifierSettings
    evaluations: list[dict[str, Any]]
    pace: float

    @staticmethod
    def of(folder: Path) -> "Measured":
        run = Run(folder)
        if not (run.path / "settings.yaml").is_file():
            raise VkdError(f"{run.path}: not a run folder (no settings.yaml in it)")
        records = run.records("metrics")
        evaluations = [record for record in records if "top1" in record]
        if not evaluations:
            raise VkdError(f"{run.path}: no evaluation yet; train further")
        paces = [r["images_per_second"] for r in records if "images_per_second" in r]
        return Measured(run.settings(), evaluations, statistics.median(paces) if paces else 0.0)

    @property
    def last(self) -> dict[str, Any]:
        return self.evaluations[-1]

    @property
    def caption(self) -> str:
        """What runs must share for their numbers to stand in one column."""
        data, train = self.settings.data, self.settings.train
        share = f", {data.fraction:.0%}" if data.fraction is not None else ""
        share = f", {data.num_images:,} images" if data.num_images is not None else share
        return (
            f"top-1 in percent on {data.heldout} ({self.last['images']:,} images), after "
            f"{train.epochs} epochs of {data.source}{share} at {data.resolution} pixels"
        )

    @property
    def teachers(self) -> str:
        return ", ".join(network.name for network in self.settings.teachers.values())

    def row(self) -> Row:
        best = max(self.evaluations, key=lambda record: record["top1"])
        done, epochs = self.last["epoch"], self.settings.train.epochs
        return {
            "arm": self.settings.arm,
            "seed": str(self.settings.seed),
            "teachers": self.teachers,
            "top-1": f"{self.last['top1']:.2f}",
            "top-5": f"{self.last['top5']:.2f}",
            "best top-1": f"{best['top1']:.2f} (epoch {best['epoch']:g})",
            "epochs": f"{done:g} of {epochs}",
            "images / s": f"{self.pace:.0f}",
        }


def compare(folders: list[Path], out: Path, baseline: str = "plain") -> str:
    """Writes table.md, table.csv and curves.png into `out` and returns the tables as Markdown.

    A row a run: top-1 and top-5 after the last epoch, and the best top-1, which was chosen on the
    images that it is measured on. Where an arm was run at several seeds, a table of means, standard
    deviations (n - 1) and mean differences to the baseline at the same seeds comes first, with
    95% intervals (Student's t). Runs on other images get tables of their own.

    Raises:
        VkdError: a folder that is no run, or was never evaluated; two runs of one arm and seed.
    """
    groups: dict[str, list[Measured]] = {}
    for folder in folders:
        measured = Measured.of(folder)
        groups.setdefault(measured.caption, []).append(measured)
    parts, tables = [], {}
    for caption, group in groups.items():
        pairs = [(m.settings.arm, m.settings.seed) for m in group]
        for arm, seed in pairs:
            if pairs.count((arm, seed)) > 1:
                raise VkdError(f"two runs of arm {arm} at seed {seed}: set another arm")
        tables[caption] = complete([m.row() for m in group])
        spread = complete(_spread(group, baseline))
        parts += [caption, *([markdown(spread)] if spread else []), markdown(tables[caption])]
    text = "\n\n".join(parts)
    write_atomically(out / "table.md", lambda file: file.write_text(text + "\n"))
    write_atomically(out / "table.csv", lambda file: file.write_text(as_csv(tables)))
    _curves(groups, out / "curves.png")
    return text


def _spread(group: list[Measured], baseline: str) -> list[Row]:
    """A row an arm over its seeds; none where every arm has one."""
    arms: dict[str, list[Measured]] = {}
    for measured in group:
        arms.setdefault(measured.settings.arm, []).append(measured)
    if all(len(runs) == 1 for runs in arms.values()):
        return []
    compared = {run.settings.seed: run.last["top1"] for run in arms.get(baseline, [])}
    rows = []
    for arm, runs in arms.items():
        row = {
            "arm": arm,
            "teachers": runs[0].teachers,
            "seeds": str(len(runs)),
            "top-1": mean_and_deviation([run.last["top1"] for run in runs]),
            "top-5": mean_and_deviation([run.last["top5"] for run in runs]),
            "images / s": f"{statistics.fmean(run.pace for run in runs):.0f}",
        }
        differences = [
            run.last["top1"] - compared[run.settings.seed]
            for run in runs
            if run.settings.seed in compared and arm != baseline
        ]
        if differences:
            row[f"top-1, less {baseline} at the same seed"] = confidence(differences)
        rows.append(row)
    return rows


def _curves(groups: dict[str, list[Measured]], path: Path) -> None:
    """Top-1 over epochs, a line a run, a colour an arm."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(groups), figsize=(7 * len(groups), 5), squeeze=False)
    for axis, (caption, group) in zip(axes[0], groups.items(), strict=True):
        arms = list(dict.fromkeys(m.settings.arm for m in group))
        for m in group:
            place, first = arms.index(m.settings.arm), m.settings.arm
            known = any(line.get_label() == first for line in axis.lines)
            axis.plot(
                [record["epoch"] for record in m.evaluations],
                [record["top1"] for record in m.evaluations],
                color=f"C{place % 10}",
                label="_" if known else first,
            )
        axis.set(title=caption, xlabel="epoch", ylabel="top-1 in percent")
        axis.title.set_fontsize(7)
        axis.legend()
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
    plt.close(figure)
