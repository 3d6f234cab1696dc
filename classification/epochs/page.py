"""The page about runs by epochs (gan_vkd/report/page)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from classification.epochs.comparison import Measured, tables_of
from gan_vkd.report.page.subject import Shown, Subject


def subject(run: Callable[[Path], Shown], measured: Callable[[Any], Measured]) -> Subject[Measured]:
    """run: a folder -> its run; measured: a run -> its evaluations."""
    return Subject(run, lambda line, file: line, measured, tables_of, lambda found: found.numbers())
