"""Searches the settings of the distillation in configs/recipe by successive halving.

    python benchmarks/search.py --out runs/search data.source=TRAIN.zip data.heldout=TEST.zip ...

Every cell of the search is one run, at a seed that no table uses. All runs are trained to the first
length and evaluated; the half with the smaller mean rank over the judges continues to the next
length, and so on (Jamieson and Talwalkar, AISTATS 2016). Since one run is a noisy estimate, a
second table has the mean rank of each level of each factor over its cells. The search can be
stopped and repeated at any time: finished runs are skipped, stopped ones continued.
"""

import argparse
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import rankdata

from gan_vkd.evaluation.record import converted
from gan_vkd.report.tables import markdown
from gan_vkd.run import Run

BASE = Path(__file__).resolve().parents[1] / "configs" / "recipe"
WHITENING = {"name": "whitening", "statistics": "training_set"}
TARGETS: dict[str, dict[str, Any]] = {
    "layernorm": {"name": "layer_norm"},
    "phi_s": {"name": "phi_s", "statistics": "training_set"},
    "whitening": WHITENING,
    "whitening64": WHITENING | {"directions": 64},
    "whitening16": WHITENING | {"directions": 16},
}
STUDENTS: dict[str, dict[str, Any]] = {
    "centred": {"scaling": "batch"},
    "head": {"feature": "head", "scaling": "batch"},
}
RATIOS = {"third": 0.3, "one": 1.0, "three": 3.0}
PROJECTIONS = {"trained": "orthogonal", "fixed": "orthogonal_fixed"}


def cells() -> dict[str, dict[str, Any]]:
    """Returns the `distill` settings of every cell by name."""
    found = {}
    for (target, t), (student, s), (ratio, r), (projection, p) in product(
        TARGETS.items(), STUDENTS.items(), RATIOS.items(), PROJECTIONS.items()
    ):
        method = {"name": "vkd", "projection": p, "normalization": t}
        own = {"student": s, "gradient_ratio": r, "method": method}
        found[f"{target}_{student}_{ratio}_{projection}"] = own
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--lengths",
        type=_numbers,
        default=[50, 100, 200, 400],
        metavar="N,...",
        help="iterations",
    )
    parser.add_argument(
        "--cells", type=_names, default=list(cells()), metavar="NAME,...", help="default: all"
    )
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("settings", nargs="*", metavar="key.sub=value")
    args = parser.parse_args()
    unknown = set(args.cells) - cells().keys()
    if unknown:
        parser.error(f"no such cell: {', '.join(sorted(unknown))}; known: {', '.join(cells())}")

    configs = _write(args.out / "cells", args.cells)
    alive, written = list(configs), []
    for length in args.lengths:
        _train([configs[name] for name in alive], length, args)
        distances = {name: _distances(args.out / f"{name}_seed{args.seed}") for name in alive}
        ranks = _mean_ranks(list(distances.values()))
        order = sorted(range(len(alive)), key=ranks.__getitem__)
        rows = [
            {"cell": alive[i], "iterations": str(length), "mean rank": f"{ranks[i]:.1f}"}
            | {judge: f"{value:.2f}" for judge, value in distances[alive[i]].items()}
            for i in order
        ]
        tables = [markdown(rows)]
        if length == args.lengths[0]:
            tables.append(markdown(_levels(dict(zip(alive, ranks, strict=True)))))
        written += tables
        (args.out / "search.md").write_text("\n\n".join(written) + "\n")
        print("\n\n".join(tables), flush=True)
        kept = order[: max(2, len(order) // 2)]
        alive = ["none"] + [alive[i] for i in kept if alive[i] != "none"]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _names(text: str) -> list[str]:
    return text.split(",")


def _levels(ranks: dict[str, float]) -> list[dict[str, str]]:
    """Returns the mean rank of every level of every factor over its cells."""
    factors = {"target": TARGETS, "student": STUDENTS, "ratio": RATIOS, "projection": PROJECTIONS}
    rows = []
    for place, (factor, levels) in enumerate(factors.items()):
        for level in levels:
            own = [r for n, r in ranks.items() if n != "none" and n.rsplit("_", 3)[place] == level]
            if own:
                mean = sum(own) / len(own)
                row = {"factor": factor, "level": level, "cells": str(len(own))}
                rows.append(row | {"mean rank": f"{mean:.1f}"})
    return rows


def _write(folder: Path, names: list[str]) -> dict[str, Path]:
    """Writes a settings file for each cell and for the run without distillation."""
    folder.mkdir(parents=True, exist_ok=True)
    trees: dict[str, dict[str, Any]] = {"none": {"base": str(BASE / "none.yaml"), "arm": "none"}}
    for name in names:
        bases = [str(BASE / "none.yaml"), str(BASE / "teacher.yaml")]
        trees[name] = {"base": bases, "arm": name, "distill": cells()[name]}
    for name, tree in trees.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return {name: folder / f"{name}.yaml" for name in trees}


def _train(configs: list[Path], length: int, args: argparse.Namespace) -> None:
    sweep = [sys.executable, "-m", "gan_vkd", "sweep", *map(str, configs)]
    sweep += [f"train.iterations={length}", f"evaluate.every={length}", *args.settings]
    sweep += ["--seeds", str(args.seed), "--jobs", str(args.jobs), "--out", str(args.out)]
    subprocess.run(sweep, check=True)


def _distances(run: Path) -> dict[str, float]:
    """Returns the Frechet distance of every judge at the last evaluation."""
    last = [record for record in Run(run).records("metrics") if "judges" in record][-1]
    return {judge["frechet_name"]: judge["frechet"] for judge in converted(last)["judges"]}


def _mean_ranks(distances: list[dict[str, float]]) -> list[float]:
    by_judge = [rankdata([d[judge] for d in distances]) for judge in distances[0]]
    return [float(sum(ranks) / len(by_judge)) for ranks in zip(*by_judge, strict=True)]


if __name__ == "__main__":
    main()
