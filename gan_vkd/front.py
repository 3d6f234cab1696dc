"""The commands that vkd, vkd-classify and vkd-detect have in common.

A program says what is its own (`Front`), and `commands` makes a typer application of it with train,
sweep, compare, evaluate and export; nothing is imported before it is needed.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from gan_vkd.runtime.command_line import (
    Config,
    ConfigsAndOverrides,
    Jobs,
    MaxTime,
    OutOrDefault,
    Overrides,
    Resume,
    RunFolder,
    Seeds,
    Slurm,
    what_to_train,
)

if TYPE_CHECKING:
    from gan_vkd.runtime.settings import RunSettings

Runs = Annotated[list[Path], typer.Argument(help="Run folders.")]
Out = Annotated[Path, typer.Option(help="Folder for the tables (table.md, table.csv) and picture.")]
SweepOut = Annotated[Path, typer.Option(help="Folder of the runs, their logs and the table.")]
Baseline = Annotated[str, typer.Option(help="The arm that differences are taken to.")]

ENDS = (
    "Exit codes: 0 finished, 1 failed, 2 bad settings; stopped with a checkpoint, to go on with "
    "--resume: 124 at --max-time, 128 + the signal's number (130 SIGINT, 143 SIGTERM, 138 SIGUSR1, "
    "129 SIGHUP). Under torchrun a stopped run exits with 0, since torchrun starts anew what "
    "fails; the file exit_code in the run folder has the number."
)
PROGRAMS = (
    "vkd trains GANs, vkd-classify recognisers, vkd-detect detectors; all have train, sweep, "
    "compare, evaluate and export."
)


class Front(ABC):
    """What a program is, and what its commands do.

    module: run by `python -m`.
    about: the program, in a sentence.
    trained: what is trained, with its article; best: what is exported of it.
    sweeps: where a sweep's runs go by default.
    baseline: the arm that differences are taken to by default.
    picture: that a comparison draws.
    compares, measures: help of compare and evaluate.
    formats: of exported files.
    """

    module: ClassVar[str]
    about: ClassVar[str]
    trained: ClassVar[str]
    best: ClassVar[str]
    sweeps: ClassVar[Path]
    baseline: ClassVar[str] = "plain"
    picture: ClassVar[str] = "curves.png"
    compares: ClassVar[str] = "tables over runs and over seeds, and their curves"
    measures: ClassVar[str] = ""
    formats: ClassVar[str]

    @abstractmethod
    def loader(self) -> "Callable[[Path, list[str] | None], RunSettings]":
        """What reads settings of a file with overrides."""

    @abstractmethod
    def train(self, settings: Any, folder: Path, resume: bool, max_time: float | None) -> None: ...

    @abstractmethod
    def tables(self, runs: list[Path], out: Path, baseline: str) -> str:
        """Writes the tables and the picture, and returns the tables as Markdown."""

    @abstractmethod
    def evaluate(self, run: Path, overrides: list[str]) -> dict[str, Any]:
        """Measures, records and returns."""

    @abstractmethod
    def export(self, run: Path, out: Path) -> str:
        """Writes the file and returns what to say of it."""

    def compare(self, runs: list[Path], out: Path, baseline: str, **options: Any) -> None:
        """The command; options: further ones of the program's `tables`."""
        print(self.tables(runs, out, baseline, **options))
        print(f"\n{out / 'table.md'}  {out / 'table.csv'}  {out / self.picture}")
        print("runs: " + "  ".join(str(run) for run in runs))

    def sweep(
        self,
        arguments: list[str],
        seeds: list[str] | None,
        jobs: int,
        out: Path,
        slurm: str | None,
        **options: Any,
    ) -> None:
        """The command; options: further ones of the program's `tables`."""
        from gan_vkd.sweep.command import sweep_and_compare
        from gan_vkd.sweep.plan import Program

        program = Program([sys.executable, "-m", self.module], self.loader())
        table = partial(self.compare, out=out, baseline=self.baseline, **options)
        sweep_and_compare(program, arguments, seeds, jobs, out, slurm, table)


def commands(front: Front, own: Collection[str] = ()) -> typer.Typer:
    """The application of a program, with the commands that are common.

    Args:
        front: the program.
        own: names of commands that it adds itself.
    """
    app = typer.Typer(
        help=front.about,
        epilog=PROGRAMS,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    def train(
        config: Config,
        overrides: Overrides = None,
        out: OutOrDefault = None,
        resume: Resume = False,
        max_time: MaxTime = None,
    ) -> None:
        front.train(*what_to_train(front.loader(), config, overrides, out, resume, max_time))

    def sweep(
        arguments: ConfigsAndOverrides,
        seeds: Seeds = None,
        jobs: Jobs = 1,
        out: SweepOut = front.sweeps,
        slurm: Slurm = None,
    ) -> None:
        front.sweep(arguments, seeds, jobs, out, slurm)

    def compare(runs: Runs, out: Out, baseline: Baseline = front.baseline) -> None:
        front.compare(runs, out, baseline)

    def evaluate(run: RunFolder, overrides: Overrides = None) -> None:
        for key, value in front.evaluate(run, overrides or []).items():
            print(f"{key}: {value}")

    def export(run: RunFolder, out: Annotated[Path, typer.Argument(help=front.formats)]) -> None:
        print(front.export(run, out))

    for command, about in (
        (train, f"Train {front.trained}, alone or as one of torchrun's ranks.\n\n{ENDS}"),
        (sweep, "Train every arm at every seed, then compare. Call again to continue."),
        (compare, f"Put runs side by side: {front.compares}."),
        (evaluate, f"Measure a run's best {front.best}, {front.measures}."),
        (export, f"Write a run's best {front.best} alone, for use without this project."),
    ):
        if command.__name__ not in own:
            app.command(help=about)(command)
    return app
