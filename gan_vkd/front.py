"""The commands that vkd, vkd-classify and vkd-detect have in common.

A program describes itself by a `Front`, from which `commands` makes a typer application with the
commands train, sweep, compare, report, evaluate, export and doctor. Modules are imported only when
needed.
"""

import csv
import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from gan_vkd import __version__
from gan_vkd.completion import run_names, setting_items, settings_names
from gan_vkd.runtime.errors import VkdError, one_line_without_memory
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.settings_names import extended, files_of, short_name
from gan_vkd.runtime.terminal import finish, plain, plain_output, result
from gan_vkd.script_options import for_scripts


def existing(path: Path) -> Path:
    """Callback of an argument: refuses a missing file or folder, before torch is imported."""
    if not os.path.lexists(user_path(path)):
        raise VkdError(f"{path}: no such file or folder")
    return path


def run_folders(paths: Any) -> Any:
    """Callback of an argument: refuses what is no run folder, before torch is imported."""
    for path in paths if isinstance(paths, list) else [paths]:
        folder = user_path(path)
        if not os.path.lexists(folder / "settings.yaml") and not folder.is_file():
            raise VkdError(f"{path}: not a run folder (no settings.yaml in it)")
    return paths


def number_of_runs(text: str) -> int | None:
    """Parser of --jobs: a number, or None for auto."""
    if text == "auto":
        return None
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise typer.BadParameter(f"{text} is neither auto nor a number from 1.")
    return int(text)


Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="+NAME, key.sub=value", show_default=False, autocompletion=setting_items),
]
RunFolder = Annotated[
    Path, typer.Argument(help="A run folder.", callback=run_folders, autocompletion=run_names)
]
RunOrFile = Annotated[
    Path,
    typer.Argument(
        help="A run folder, or a file of weights.", callback=run_folders, autocompletion=run_names
    ),
]
Config = Annotated[
    Path,
    typer.Argument(
        help="Settings: a file, a shipped name or NAME+NAME; or a run folder.",
        autocompletion=settings_names,
    ),
]
OutOrDefault = Annotated[Path | None, typer.Option(help="The run folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run if it has started.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Measure a few iterations: networks, time and memory; train nothing."
    ),
]
MaxTime = Annotated[
    str | None, typer.Option(metavar="TIME", help="Stop after 45s, 90m, 3h30m or 02:30:00.")
]
ConfigsAndOverrides = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG[+NAME][+KEY.SUB=VALUE]... [KEY.SUB=VALUE]...",
        help="One CONFIG per arm, with its own +key=value; key=value applies to all that have it.",
        show_default=False,
        autocompletion=settings_names,
    ),
]
Seeds = Annotated[
    list[str] | None,
    typer.Option(metavar="SEED...", help="--seeds 0 1 2, or 0,1,2", show_default="0"),
]
Jobs = Annotated[
    Any,
    typer.Option(
        metavar="auto|N",
        parser=number_of_runs,
        help="Number of simultaneous runs; auto: up to 4 on a GPU with CUDA MPS, 1 on others.",
    ),
]
Slurm = Annotated[
    str | None,
    typer.Option(
        metavar="KEY=VALUE,...",
        help="Submit each run as a SLURM job: timeout_min=240,partition=gpu,gpus_per_node=1",
    ),
]
ReportFile = Annotated[Path, typer.Option(help="The HTML file to write.")]
Runs = Annotated[
    list[Path],
    typer.Argument(help="Run folders.", callback=run_folders, autocompletion=run_names),
]
Out = Annotated[Path, typer.Option(help="Folder for tables (table.md, table.csv) and a picture.")]
SweepOut = Annotated[Path, typer.Option(help="Folder for the runs, their logs and the table.")]
Baseline = Annotated[str, typer.Option(help="The arm that the others are compared with.")]

ENDS = (
    "Exit codes: 0 finished, 1 failed, 2 invalid settings; stopped with a checkpoint, to continue "
    "with --resume: 124 at --max-time, 128 + the signal's number (130 SIGINT, 143 SIGTERM, "
    "138 SIGUSR1, 129 SIGHUP). Under torchrun a stopped run exits with 0, since torchrun restarts "
    "processes that fail; its exit code is in the file exit_code of the run folder."
)
PROGRAMS = (
    "vkd trains GANs, vkd-classify recognisers, vkd-detect detectors; all have train, sweep, "
    "compare, report, evaluate and export. vkd doctor shows what this machine has and what is "
    "missing."
)


def example(line: str) -> str:
    """Epilog of a command's help: a line that can be pasted."""
    return f"\b\nExample:\n  {line}"


@dataclass(frozen=True)
class Front:
    """The texts, defaults and functions of a program. Functions are given as "module:name".

    program: its name. module: the module for `python -m`. settings: shipped arms, for examples.
    about: description of the program, one sentence.
    trained: what a run trains, with its article; best: the part that is evaluated and exported.
    sweeps: default folder of a sweep.
    load: (file, overrides) -> settings.
    train: (settings, folder, resume, seconds or None) -> None.
    dry_run: (settings, folder) -> what the run would need (gan_vkd/runtime/dry_run.py).
    tables: (run folders, output folder, baseline) -> Markdown.
    report: (run folders, HTML file, baseline) -> a line for each thing that is missing.
    export: (run folder, file) -> message to print.
    formats: help on the exported files.
    evaluate: (run folder or file, settings) -> measured values by name; unused if the command is
        in `own`, as are images and implied.
    images: settings of the images that a file of weights is measured on; implied: (file, overrides)
        -> overrides that the file implies.
    measures: help of evaluate; offline: overrides of the run's settings in evaluate, before the
        user's.
    baseline: default arm of compare; compares, picture: contents and picture file of its output.
    own: names of common commands that the program defines itself, with further options.
    """

    program: str
    module: str
    settings: tuple[str, ...]
    about: str
    trained: str
    best: str
    sweeps: Path
    load: str
    train: str
    dry_run: str
    tables: str
    report: str
    export: str
    formats: str
    evaluate: str = ""
    images: Path = Path()
    implied: str = ""
    measures: str = ""
    offline: tuple[str, ...] = ()
    baseline: str = "plain"
    compares: str = "tables over runs and over seeds, and their curves"
    picture: str = "curves.png"
    own: tuple[str, ...] = ()

    def function(self, field: str) -> Callable[..., Any]:
        """Imports and returns the function that a field names."""
        module, _, name = getattr(self, field).partition(":")
        return getattr(import_module(module), name)

    def compare(self, runs: list[Path], out: Path, baseline: str, **options: Any) -> None:
        """The command compare; options: further arguments of the program's `tables`."""
        table = self.function("tables")(runs, out, baseline, **options)
        files = [out / "table.md", out / "table.csv", out / self.picture]
        lines = ["", "  ".join(map(str, files)), "runs: " + "  ".join(map(str, runs))]
        result("\n".join([table, *lines]), files=files, runs=runs, rows=_rows(files[1]))

    def train_settings(
        self,
        config: Path,
        overrides: list[str],
        out: Path | None,
        resume: bool,
        max_time: float | None,
        dry_run: bool = False,
    ) -> None:
        """The command train; max_time: in seconds."""
        config, overrides = extended(config, overrides)
        files_of(config)  # reports a missing file before the schema is imported
        if not resume:  # a finished run needs no data
            require_data(config, overrides)
        settings = self.function("load")(config, overrides)
        usual = Path("runs", short_name(config), f"seed{settings.seed}")
        folder = out or (config if config.is_dir() else usual)
        if dry_run:
            needs = self.function("dry_run")(settings, folder)
            result(needs.text, **needs.facts)
            return
        self.function("train")(settings, folder, resume, max_time)

    def sweep(
        self,
        arguments: list[str],
        seeds: list[str] | None,
        jobs: int | None,
        out: Path,
        slurm: str | None,
        dry_run: bool = False,
        **options: Any,
    ) -> None:
        """The command sweep: runs everything here and compares, or submits a SLURM job per run.

        Raises:
            VkdError: a run failed; the finished ones have been compared.
        """
        from gan_vkd.sweep.local import sweep
        from gan_vkd.sweep.plan import Program, arms, read_arguments
        from gan_vkd.sweep.slurm import submit

        program = Program([sys.executable, "-m", self.module], self.function("load"))
        configs, numbers, overrides = read_arguments(arguments, seeds)
        if dry_run:
            from gan_vkd.runtime.dry_run import of_sweep

            measure = self.function("dry_run")
            found = arms(program, configs, overrides)
            of_sweep([(name, measure(s, out / name)) for name, s in found], len(numbers))
            return
        if slurm is not None:
            submit(program, configs, numbers, out, overrides, slurm)
            return
        for config in configs:
            require_data(config, overrides)
        finished = sweep(program, configs, numbers, out, overrides, jobs)
        if finished:
            self.compare(finished, out, self.baseline, **options)
        failed = len(configs) * len(numbers) - len(finished)
        if failed:
            raise VkdError(f"{out}: {failed} runs failed, see above; repeat the command to resume")


def commands(front: Front) -> typer.Typer:
    """Makes a program's application, with the common commands except those in `front.own`."""
    app = typer.Typer(
        help=front.about,
        epilog=f"{PROGRAMS}\n\n{example(f'{front.program} train {front.settings[0]}')}",
        no_args_is_help=True,
        rich_markup_mode=None,  # its colours are commands to the terminal
        pretty_exceptions_enable=False,
    )

    def version(shown: bool) -> None:
        if shown:
            print(f"gan-vkd {__version__}")
            raise typer.Exit

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", callback=version, is_eager=True, help="Show it.")
        ] = False,
    ) -> None: ...

    def train(
        config: Config,
        overrides: Overrides = None,
        out: OutOrDefault = None,
        resume: Resume = False,
        max_time: MaxTime = None,
        dry_run: DryRun = False,
    ) -> None:
        front.train_settings(config, overrides or [], out, resume, in_seconds(max_time), dry_run)

    def sweep(
        arguments: ConfigsAndOverrides,
        seeds: Seeds = None,
        jobs: Jobs = "auto",
        out: SweepOut = front.sweeps,
        slurm: Slurm = None,
        dry_run: DryRun = False,
    ) -> None:
        front.sweep(arguments, seeds, jobs, out, slurm, dry_run)

    def compare(runs: Runs, out: Out, baseline: Baseline = front.baseline) -> None:
        front.compare(runs, out, baseline)

    def report(
        runs: Runs, out: ReportFile = Path("report.html"), baseline: Baseline = front.baseline
    ) -> None:
        for line in front.function("report")(runs, out, baseline):
            print(f"missing: {line}", file=sys.stderr)
        result(str(out), file=out)

    def evaluate(run: RunOrFile, overrides: Overrides = None) -> None:
        config, given, implied = run, overrides or [], list[str]()
        if user_path(run).is_file():
            config, implied = front.images, front.function("implied")(run, given)
        require_data(config, given, given=True)
        settings = front.function("load")(config, [*front.offline, *implied, *given])
        measured(front.function("evaluate")(run, settings))

    for command, about, usual in (
        (train, f"Train {front.trained}, alone or as one of torchrun's ranks.\n\n{ENDS}",
         f"{front.settings[0]} --out runs/mine"),
        (sweep, "Train every arm at every seed, then compare. Repeat to continue.",
         f"{' '.join(front.settings)} --seeds 0 1 2 --out runs/table"),
        (compare, f"Compare runs: {front.compares}.", "runs/mine runs/other --out runs/compared"),
        (report, "Write one HTML file about runs: tables, curves and pictures, to open offline.",
         "runs/mine runs/other --out report.html"),
        (evaluate, f"Measure a run's best {front.best}, or a file's, {front.measures}.",
         "runs/mine"),
    ):  # fmt: skip
        if command.__name__ not in front.own:
            line = example(f"{front.program} {command.__name__} {usual}")
            app.command(help=about, epilog=line)(for_scripts(command))

    @app.command(epilog=example(f"{front.program} doctor --network"))
    @for_scripts
    def doctor(
        network: Annotated[
            bool, typer.Option("--network", help="Ask the servers of weights and data, too.")
        ] = False,
    ) -> None:
        """Show versions, devices, folders, weights and optional packages; exit code 1 if something
        that is needed is missing or broken."""
        from gan_vkd.doctor import examine

        examine(network)

    return app


def measured(values: dict[str, Any]) -> None:
    """Says the result of an evaluation, a measure a line."""
    result("\n".join(f"{key}: {value}" for key, value in values.items()), **values)


def _rows(file: Path) -> list[dict[str, str]]:
    """The rows of a table of runs, as text."""
    with open(user_path(file), newline="") as lines:
        return list(csv.DictReader(lines))


def in_seconds(time: str | None) -> float | None:
    """The seconds of a --max-time, or None.

    Raises:
        SettingsError: not a time.
    """
    from gan_vkd.runtime.stopping import seconds

    return None if time is None else seconds(time)


def require_data(config: Path, overrides: list[str], given: bool = False) -> None:
    """Refuses settings whose data are not there, before the schema and torch are imported.

    Args:
        config: reference of the settings.
        overrides: of the user.
        given: look at what the overrides name only, as a run's other data are not needed.

    Raises:
        SettingsError: missing or unreadable settings.
        VkdError: data.source, data.heldout or data.root is a path that does not exist.
    """
    from gan_vkd.runtime.settings_file import merged

    about_data = [item for item in overrides if item.startswith(("data", "+"))]
    data = merged(config, about_data).get("data")
    if not isinstance(data, dict):
        return
    keys = ["source", "heldout"] if "source" in data else ["root"]  # COCO's heldout is in its root
    if str(data.get("source")).startswith("cifar") and data.get("download") is False:
        keys = [*keys, "root"]
    for key in keys:
        path = data.get(key)
        named = any(item.startswith(f"data.{key}=") for item in overrides)
        if not isinstance(path, str) or not os.path.dirname(path) or (given and not named):
            continue
        if "{" not in path and not user_path(path).exists():  # no shards
            raise VkdError(f"data.{key} = {path}: no such folder or file")


def run_app(app: typer.Typer) -> None:
    """Runs the application; expected failures print one line per fault and set the exit code.

    Also where standard output cannot be written; if its reader is gone, nothing is printed.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # bars of other packages, redrawn by "\\r"
    threading.excepthook = lambda died: print(f"vkd: {died.exc_value}", file=sys.stderr)
    with plain_output():
        code, error = _exit_code(app)
        try:
            finish(code, error)
        except (VkdError, BrokenPipeError) as fault:
            # what is left is written nowhere, since Python would try again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not code and isinstance(fault, VkdError):
                print(f"vkd: {fault}", file=sys.stderr)
            code = code or 1
    sys.exit(code)


def _exit_code(app: typer.Typer) -> tuple[int, str]:
    """The exit code, and the error if there was one."""
    try:
        with one_line_without_memory("set device=cpu, or a smaller batch"):
            app()
    except VkdError as error:
        for line in str(error).split("\n"):
            print(f"vkd: {plain(line)}", file=sys.stderr)
        return error.exit_code, str(error)
    except SystemExit as end:
        if isinstance(end.code, str):  # a message
            print(end.code, file=sys.stderr)
            return 1, end.code
        return end.code or 0, ""
    return 0, ""
