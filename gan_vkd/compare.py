"""Runs side by side: one table (terminal, Markdown, CSV) and one picture of their samples."""

import csv
import io
from pathlib import Path
from typing import Any

from gan_vkd.checkpoint import write_atomically
from gan_vkd.errors import VkdError
from gan_vkd.pictures import class_grid, save_side_by_side
from gan_vkd.run import Run

Row = dict[str, str]


def compare(folders: list[Path], out: Path) -> str:
    """Writes table.md, table.csv and samples.png into `out` and returns the table as Markdown.

    A row a run: the Frechet distance at its first, best and last evaluation, the kernel distance
    at the best, and the cost of an iteration. Runs that were measured differently (features,
    reference, number of samples) get a table each: their numbers are never put in one column.

    Raises:
        VkdError: a folder that is no run, or a run that was never evaluated.
    """
    runs = [Run(folder) for folder in folders]
    tables: dict[str, list[Row]] = {}
    for run in runs:
        caption, row = _row(run)
        tables.setdefault(caption, []).append(row)
    text = "\n\n".join(f"{caption}\n\n{_markdown(rows)}" for caption, rows in tables.items())
    write_atomically(out / "table.md", lambda file: file.write_text(text + "\n"))
    write_atomically(out / "table.csv", lambda file: file.write_text(_csv(tables)))
    _picture(runs, out / "samples.png")
    return text


def _row(run: Run) -> tuple[str, Row]:
    if not (run.path / "settings.yaml").is_file():
        raise VkdError(f"{run.path}: not a run folder (no settings.yaml in it)")
    settings = run.settings()
    measured = [record for record in run.records("metrics") if "features" in record]
    if not measured:
        raise VkdError(f"{run.path}: no evaluation yet; train further")
    first, last = measured[0], measured[-1]
    frechet, kernel = _names(last)
    best = min(measured, key=lambda record: record[frechet])
    rate = 1000 * last["seconds"] / last["iteration"]
    caption = (
        f"{frechet} of {last['num_samples']:,} samples to {last['reference']} "
        f"({last['reference_images']:,} images)"
    )
    row = {
        "arm": settings.arm,
        "seed": str(settings.seed),
        f"{frechet}, best": f"{best[frechet]:.3f}",
        "at iteration": f"{best['iteration']} of {settings.train.iterations}",
        "last": f"{last[frechet]:.3f}",
        "first": f"{first[frechet]:.3f} ({first['iteration']})",
        f"{kernel}, best": f"{best[kernel]:.5f}",
        "ms / iteration": f"{rate:.0f}",
    }
    return caption, row


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
