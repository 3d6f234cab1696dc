"""Draws the figures of docs/results.md from the tables in benchmarks/results.

    python docs/figures/results.py

One dot for each run and one bar for the mean of an arm, so that the spread over seeds is seen.
"""

from pathlib import Path
from typing import Any

import matplotlib

from gan_vkd.report.figures import save_figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parents[1] / "benchmarks" / "results"
# name of the figure: file of the table and its columns, each with a title
FIGURES = {
    "quickstart_results": ("quickstart_cpu.md", {
        "FD(classifier), best": "Fréchet distance, lower is better",
        "precision": "precision", "recall": "recall",
    }),
    "cifar10_results": ("cifar10_recipe_cpu.md", {
        "FD(cifar_resnet56), best": "FD, a ResNet-56 for CIFAR-10",
        "FD(timm/tf_efficientnet_lite2@128) at the best": "FD, EfficientNet-Lite2",
        "recall": "recall",
    }),
    "recognition_results": ("cifar10_vit_cpu.md", {"top-1": "top-1 accuracy, percent"}),
}  # fmt: skip


def runs(file: Path) -> list[dict[str, str]]:
    """The rows of the first table with a column `seed`: one for each run."""
    tables = [block.splitlines() for block in file.read_text().split("\n\n") if block[:1] == "|"]
    for lines in tables:
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        if "seed" in head:
            return [dict(zip(head, row, strict=True)) for row in rows]
    raise ValueError(f"{file}: no table of runs")


def dots(rows: list[dict[str, str]], columns: dict[str, str]) -> Any:
    """One panel for each column: arms from top to bottom, runs as dots, means as bars."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    figure, axes = plt.subplots(
        1, len(columns), figsize=(3.4 * len(columns) + 1, 0.32 * len(arms) + 1.1),
        layout="constrained", sharey=True, squeeze=False,
    )  # fmt: skip
    for ax, (column, title) in zip(axes[0], columns.items(), strict=True):
        for place, arm in enumerate(arms):
            values = [float(row[column]) for row in rows if row["arm"] == arm]
            colour = "#5b6470" if place == 0 else "#35689e"
            ax.plot(values, [place] * len(values), "o", ms=5, alpha=0.6, mew=0, color=colour)
            mean = sum(values) / len(values)
            ax.plot([mean, mean], [place - 0.3, place + 0.3], color=colour, lw=2)
        ax.set_title(title, fontsize=9)
        ax.grid(axis="x", alpha=0.3)
        ax.tick_params(labelsize=8)
    axes[0, 0].set_yticks(range(len(arms)), arms)
    axes[0, 0].invert_yaxis()
    return figure


def main() -> None:
    for name, (file, columns) in FIGURES.items():
        save_figure(dots(runs(RESULTS / file), columns), FOLDER / f"{name}.png", dpi=120)


if __name__ == "__main__":
    main()
