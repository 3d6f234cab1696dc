"""The commands that vkd, vkd-classify and vkd-detect have in common.

A program says what is its own (`Front`), and `commands` makes a typer application of it with train,
sweep, compare, evaluate and export; nothing is imported before it is needed.
"""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from gan_vkd.runtime.errors import VkdError, one_line_without_memory
from gan_vkd.runtime.settings_names import extended, files_of, short_name
from gan_vkd.runtime.terminal import plain, plain_output

Overrides = Annotated[
    list[str] | None, typer.Argument(help="+NAME, key.sub=value", show_default=False)
]
RunFolder = Annotated[Path, typer.Argument(help="A run folder.")]
Config = Annotated[
    Path, typer.Argument(help="Settings: a file, shipped name or NAME+NAME; or a run folder.")
]
OutOrDefault = Annotated[Path | None, typer.Option(help="The run folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue, or start.")]
MaxTime = Annotated[
    str | None, typer.Option(metavar="TIME", help="Stop after 45s, 90m, 3h30m or 02:30:00.")
]
ConfigsAndOverrides = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG[+NAME][+KEY.SUB=VALUE]... [KEY.SUB=VALUE]...",
        help="Settings, one an arm, with its own +key=value; key=value for all that have it.",
        show_default=False,
    ),
]
Seeds = Annotated[
    list[str] | None,
    typer.Option(metavar="SEED...", help="--seeds 0 1 2, or 0,1,2", show_default="0"),
]
Jobs = Annotated[int, typer.Option(min=1, help="Runs at once.")]
Slurm = Annotated[
    str | None,
    typer.Option(
        metavar="KEY=VALUE,...",
        help="A SLURM job a run: timeout_min=240,partition=gpu,gpus_per_node=1",
    ),
]
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


@dataclass(frozen=True)
class Front:
    """What a program is, and what its commands call: functions as "module:name", imported there.

    module: run by `python -m`.
    about: the program, in a sentence.
    trained: what is trained, with its article; best: what is measured and exported of it.
    sweeps: where a sweep's runs go by default.
    load: settings of a file with overrides.
    train: of settings, folder, whether it resumes, and seconds.
    tables: of run folders, folder and baseline; gives Markdown.
    export: of run folder and file; gives what to say of it.
    formats: of exported files.
    evaluate: of run folder and settings; gives what was measured. None: a command of its own.
    measures: help of evaluate; offline: overrides that a stranger's settings get there.
    own: names of common commands that the program defines itself, with further options.
    """

    module: str
    about: str
    trained: str
    best: str
    sweeps: Path
    load: str
    train: str
    tables: str
    export: str
    formats: str
    evaluate: str = ""
    measures: str = ""
    offline: tuple[str, ...] = ()
    baseline: str = "plain"
    compares: str = "tables over runs and over seeds, and their curves"
    picture: str = "curves.png"
    own: tuple[str, ...] = ()

    def function(self, what: str) -> Callable[..., Any]:
        """The function of that field."""
        module, _, name = getattr(self, what).partition(":")
        return getattr(import_module(module), name)

    def compare(self, runs: list[Path], out: Path, baseline: str, **options: Any) -> None:
        """The command; options: further ones of the program's tables."""
        print(self.function("tables")(runs, out, baseline, **options))
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
        """The command: all runs here, then the table; or a SLURM job a run.

        Raises:
            VkdError: a run failed; those that did not are compared.
        """
        from gan_vkd.sweep.local import sweep
        from gan_vkd.sweep.plan import Program, read_arguments
        from gan_vkd.sweep.slurm import submit

        program = Program([sys.executable, "-m", self.module], self.function("load"))
        configs, numbers, overrides = read_arguments(arguments, seeds)
        if slurm is not None:
            submit(program, configs, numbers, out, overrides, slurm)
            return
        finished = sweep(program, configs, numbers, out, overrides, jobs)
        if finished:
            self.compare(finished, out, self.baseline, **options)
        failed = len(configs) * len(numbers) - len(finished)
        if failed:
            raise VkdError(f"{out}: {failed} runs failed, see above; call again to go on with them")


def commands(front: Front) -> typer.Typer:
    """The application of a program, with the commands that all have but its own."""
    app = typer.Typer(
        help=front.about,
        epilog=PROGRAMS,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,  # its colours are commands to the terminal
        pretty_exceptions_enable=False,
    )

    def train(
        config: Config,
        overrides: Overrides = None,
        out: OutOrDefault = None,
        resume: Resume = False,
        max_time: MaxTime = None,
    ) -> None:
        from gan_vkd.runtime.stopping import seconds

        budget = None if max_time is None else seconds(max_time)
        config, overrides = extended(config, overrides or [])
        files_of(config)  # a missing file is told before the schema is imported
        settings = front.function("load")(config, overrides)
        usual = Path("runs", short_name(config), f"seed{settings.seed}")
        folder = out or (config if config.is_dir() else usual)
        front.function("train")(settings, folder, resume, budget)

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
        settings = front.function("load")(run, [*front.offline, *(overrides or [])])
        for key, value in front.function("evaluate")(run, settings).items():
            print(f"{key}: {value}")

    def export(run: RunFolder, out: Annotated[Path, typer.Argument(help=front.formats)]) -> None:
        print(front.function("export")(run, out))

    for command, about in (
        (train, f"Train {front.trained}, alone or as one of torchrun's ranks.\n\n{ENDS}"),
        (sweep, "Train every arm at every seed, then compare. Call again to continue."),
        (compare, f"Put runs side by side: {front.compares}."),
        (evaluate, f"Measure a run's best {front.best}, {front.measures}."),
        (export, f"Write a run's best {front.best} alone, for use without this project."),
    ):
        if command.__name__ not in front.own:
            app.command(help=about)(command)
    return app


def run_app(app: typer.Typer) -> None:
    """A console command: every expected failure is a line a fault and an exit code."""
    threading.excepthook = lambda died: print(f"vkd: {died.exc_value}", file=sys.stderr)
    with plain_output():
        try:
            with one_line_without_memory("set device=cpu, or a smaller batch"):
                app()
        except VkdError as error:
            for line in str(error).split("\n"):
                print(f"vkd: {plain(line)}", file=sys.stderr)
            sys.exit(error.exit_code)
