"""What the runs of a program have of their own on a page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol

from gan_vkd.report.arms import Tables
from gan_vkd.report.page.pictures import Source, Strip
from gan_vkd.report.page.views import Measured, View
from gan_vkd.runtime.settings import RunSettings


class Shown(Protocol):
    """A run's folder that can read its settings."""

    @property
    def path(self) -> Path: ...
    def settings(self) -> RunSettings: ...
    def records(self, name: str) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Subject(Generic[Measured]):
    """What a program's runs have of their own.

    open: a folder -> its run.
    record: (a line of metrics.jsonl, its file) -> the line with all its numbers as keys; raises
        VkdError for a damaged one.
    measured: a run -> its evaluations; raises VkdError if there are none.
    tables: (evaluations of several runs, baseline arm) -> tables.
    compared: a run's evaluations -> the numbers that are compared over seeds, at the last one.
    warnings: a run's evaluations -> what there is to warn of.
    strips: (runs, how images get on the page) -> images.
    """

    open: Callable[[Path], Shown]
    record: Callable[[dict[str, Any], Path], dict[str, Any]]
    measured: Callable[[Any], Measured]
    tables: Callable[[list[Measured], str], list[Tables[Measured]]]
    compared: Callable[[Measured], dict[str, float]]
    warnings: Callable[[Measured], Sequence[str]] = lambda measured: ()
    strips: Callable[[Sequence[View[Any]], Source], list[Strip]] = lambda views, source: []
