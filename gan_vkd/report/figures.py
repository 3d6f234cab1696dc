"""Text in figures, which may be a stranger's, and their files."""

import warnings
from pathlib import Path
from typing import Any

from gan_vkd.report.tables import in_line
from gan_vkd.runtime.files import write_atomically


def label(text: str, most: int = 60) -> str:
    """A text as matplotlib draws it unchanged, on one line and cut after `most` characters.

    matplotlib takes what is between two "$" as mathematics and leaves names that begin with "_" out
    of legends.
    """
    line = in_line(text)
    line = line if len(line) <= most else f"{line[: most - 1]}…"
    return (" " if line.startswith("_") else "") + line.replace("$", r"\$")


def save_figure(figure: Any, path: Path, **options: Any) -> None:
    """Writes a figure as PNG; characters that the font does not have are drawn as boxes."""
    with warnings.catch_warnings():
        for message in ("Glyph", "Matplotlib currently does not support"):
            warnings.filterwarnings("ignore", message, UserWarning)
        write_atomically(path, lambda file: figure.savefig(file, format="png", **options))
