"""Draws the curves of runs: python benchmarks/curves.py RUN ... --out FOLDER

Writes curves.csv, one line per run and record, and curves.png: the judges' distances, the scores of
real and of fake images, and the explained share of the teacher over the iterations.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gan_vkd.evaluation.record import converted, is_evaluation
from gan_vkd.report.figures import label, save_figure
from gan_vkd.run import Run

SHOWN = ["real_score", "fake_score", "explained_share"]
RECORDS = 400  # of a run, at most, beside its evaluations

Curves = dict[str, dict[str, list[tuple[float, float]]]]  # points by quantity and run


def records(run: Run) -> list[dict[str, float]]:
    """The run's evaluations, as Frechet distances by name, and some of its other records."""
    evaluations, others = [], []
    for record in run.records("metrics"):
        known = {key: record[key] for key in ("iteration", "seconds", *SHOWN) if key in record}
        if is_evaluation(record):
            judges = converted(record)["judges"]
            evaluations.append(known | {j["frechet_name"]: j["frechet"] for j in judges})
        else:
            others.append(known)
    every = -(-len(others) // RECORDS)
    kept = evaluations + others[every - 1 :: every]
    return sorted(kept, key=lambda record: record["iteration"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    lines: list[dict[str, Any]] = []
    curves: Curves = {}
    for run in map(Run, given.runs):
        settings = run.settings()
        own = {"arm": settings.arm, "seed": settings.seed}
        for record in records(run):
            lines.append(own | record)
            for key in record.keys() - {"iteration", "seconds"}:
                points = curves.setdefault(key, {}).setdefault(
                    "{arm}, seed {seed}".format(**own), []
                )
                points.append((record["iteration"], record[key]))
    with open(given.out / "curves.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for line in lines for key in line)))
        writer.writeheader()
        writer.writerows(lines)
    draw(curves, given.out / "curves.png")


def draw(curves: Curves, path: Path) -> None:
    """Writes one panel for each quantity, with one curve for each run."""
    order = sorted(curves, key=lambda key: (key in SHOWN, key))
    rows = -(-len(order) // 2)
    figure = Figure(figsize=(11, 3.4 * rows), dpi=130, layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).flatten()
    names = list(dict.fromkeys(name for runs in curves.values() for name in runs))
    for axis, key in zip(axes, order, strict=False):
        for name, points in curves[key].items():
            colour = f"C{names.index(name) % 10}"
            axis.plot(*zip(*points, strict=True), marker=".", color=colour, label=label(name))
        axis.set_title(label(key), fontsize=10)
        axis.set_xlabel("iteration")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend(fontsize=8)
    for axis in axes[len(order) :]:
        axis.axis("off")
    save_figure(figure, path)


if __name__ == "__main__":
    main()
