"""The tables of `vkd advise`, and the command with the settings that they recommend."""

import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from gan_vkd.advise.choice import normalization, score
from gan_vkd.advise.measure import Row, Target
from gan_vkd.auto.reference import name_of
from gan_vkd.report.tables import Row as TableRow
from gan_vkd.teachers.settings import LayerSettings, NetworkSettings


def of_layers(rows: list[Row]) -> list[TableRow]:
    """A line for each layer of each teacher, in the given order."""
    names = Counter(name for name, _ in {(r.teacher.name, r.teacher.weights) for r in rows})
    return [
        {
            "teacher": _label(row.teacher, with_file=names[row.teacher.name] > 1),
            "layer": row.layer.layer or "usual",
            "score": f"{score(row):.3f}",
            "width": str(row.width),
            "ms / picture": f"{1000 * row.seconds:.3g}",
            "effective rank": f"{row.rank:.1f}",
            "agreement": f"{row.signal:.2f}",
            "found again": f"{row.retrieval:.1%}",
            "directions": str(row.directions),
            "probe": _accuracy(row),
            "normalisation": named_in_short(normalization(row)),
        }
        for row in rows
    ]


def of_normalizations(targets: list[Target]) -> list[TableRow]:
    """A line for each normalisation of one layer."""
    return [
        {
            "normalisation": named_in_short(target.normalization),
            "effective rank": f"{target.rank:.1f}",
            "agreement": f"{target.signal:.2f}",
            "found again": f"{target.retrieval:.1%}",
        }
        for target in targets
    ]


def named_in_short(chosen: Any) -> str:
    """A normalisation as whitening of 16, whitening or layer_norm."""
    name, kept = chosen["name"], chosen.get("directions")
    return name if kept is None else f"{name} of {kept}"


def _label(teacher: NetworkSettings, with_file: bool) -> str:
    """Its name, with the size and the file where they make a difference."""
    size = f"@{teacher.size}" if teacher.size else ""
    file = f" ({Path(teacher.weights).name})" if with_file and teacher.weights else ""
    return f"{teacher.name}{size}{file}"


def _accuracy(row: Row) -> str:
    if row.probe is None:
        return ""
    return f"{row.probe.accuracy:.1%} ({row.probe.low:.1%} to {row.probe.high:.1%})"


def to_paste(row: Row) -> str:
    """The setting `distill` of a row as key=value, for `vkd train PICTURES` or any settings.

    The distillation is that of configs/recipe/whitening_pca.yaml: centred features, targets of the
    clean real images, a gradient as strong as the adversarial one.
    """
    layer = row.layer.model_dump(exclude_defaults=True, include=set(LayerSettings.model_fields))
    distill = {
        "teacher": row.teacher.model_dump(exclude_defaults=True) | layer,
        "method": {"normalization": normalization(row)},
        "student": {"scaling": "batch"},
        "images": "real",
        "view": "clean",
        "weight": "auto",
    }
    flow = yaml.safe_dump(distill, default_flow_style=True, sort_keys=False, width=10**6)
    return f"distill={flow.strip()}"


def command(path: Path, items: list[str], size: int | None, row: Row) -> str:
    """`vkd train` with what the user gave to `vkd advise` and the row's distillation."""
    sized = [] if size is None else ["--size", str(size)]
    out = ["--out", f"runs/{name_of(path)}-advised"]  # beside a run without a teacher
    settings = ["arm=advised", *items, to_paste(row)]
    return shlex.join(["vkd", "train", str(path), *sized, *settings, *out])
