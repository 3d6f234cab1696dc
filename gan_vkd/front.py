"""The commands that vkd, vkd-classify and vkd-detect have in common.

A program describes itself by a `Front`, from which `commands` makes a typer application with the
commands train, sweep, compare, evaluate and export. Modules are imported only when needed.
"""

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
from gan_vkd.runtime.errors import VkdError, one_line_without_memory
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.settings_names import extended, files_of, short_name
from gan_vkd.runtime.terminal import plain, plain_output


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
    list[str] | None, typer.Argument(help="+NAME, key.sub=value", show_default=False)
]
RunFolder = Annotated[Path, typer.Argument(help="A run folder.", callback=run_folders)]
RunOrFile = Annotated[
    Path, typer.Argument(help="A run folder, or a file of weights.", callback=run_folders)
]
Config = Annotated[
    Path, typer.Argument(help="Settings: a file, a shipped name or NAME+NAME; or a run folder.")
]
OutOrDefault = Annotated[Path | None, typer.Option(help="The run folder.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run if it has started.")]
MaxTime = Annotated[
    str | None, typer.Option(metavar="TIME", help="Stop after 45s, 90m, 3h30m or 02:30:00.")
]
ConfigsAndOverrides = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG[+NAME][+KEY.SUB=VALUE]... [KEY.SUB=VALUE]...",
        help="One CONFIG per arm, with its own +key=value; key=value applies to all that have it.",
        show_default=False,
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
Runs = Annotated[list[Path], typer.Argument(help="Run folders.", callback=run_folders)]
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
    "compare, evaluate and export."
)


@dataclass(frozen=True)
class Front:
    """The texts, defaults and functions of a program. Functions are given as "module:name".

    module: the module for `python -m`.
    about: description of the program, one sentence.
    trained: what a run trains, with its article; best: the part that is evaluated and exported.
    sweeps: default folder of a sweep.
    load: (file, overrides) -> settings.
    train: (settings, folder, resume, seconds or None) -> None.
    tables: (run folders, output folder, baseline) -> Markdown.
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
        print(self.function("tables")(runs, out, baseline, **options))
        print(f"\n{out / 'table.md'}  {out / 'table.csv'}  {out / self.picture}")
        print("runs: " + "  ".join(str(run) for run in runs))

    def train_settings(
        self,
        config: Path,
        overrides: list[str],
        out: Path | None,
        resume: bool,
        max_time: float | None,
    ) -> None:
        """The command train; max_time: in seconds."""
        config, overrides = extended(config, overrides)
        files_of(config)  # reports a missing file before the schema is imported
        if not resume:  # a finished run needs no data
            require_data(config, overrides)
        settings = self.function("load")(config, overrides)
        usual = Path("runs", short_name(config), f"seed{settings.seed}")
        folder = out or (config if config.is_dir() else usual)
        self.function("train")(settings, folder, resume, max_time)

    def sweep(
        self,
        arguments: list[str],
        seeds: list[str] | None,
        jobs: int | None,
        out: Path,
        slurm: str | None,
        **options: Any,
    ) -> None:
        """The command sweep: runs everything here and compares, or submits a SLURM job per run.

        Raises:
            VkdError: a run failed; the finished ones have been compared.
        """
        from gan_vkd.sweep.local import sweep
        from gan_vkd.sweep.plan import Program, read_arguments
        from gan_vkd.sweep.slurm import submit

        program = Program([sys.executable, "-m", self.module], self.function("load"))
        configs, numbers, overrides = read_arguments(arguments, seeds)
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
        epilog=PROGRAMS,
        no_args_is_help=True,
        add_completion=False,
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
    ) -> None:
        front.train_settings(config, overrides or [], out, resume, in_seconds(max_time))

    def sweep(
        arguments: ConfigsAndOverrides,
        seeds: Seeds = None,
        jobs: Jobs = "auto",
        out: SweepOut = front.sweeps,
        slurm: Slurm = None,
    ) -> None:
        front.sweep(arguments, seeds, jobs, out, slurm)

    def compare(runs: Runs, out: Out, baseline: Baseline = front.baseline) -> None:
        front.compare(runs, out, baseline)

    def evaluate(run: RunOrFile, overrides: Overrides = None) -> None:
        config, given, implied = run, overrides or [], list[str]()
        if user_path(run).is_file():
            config, implied = front.images, front.function("implied")(run, given)
        require_data(config, given, given=True)
        settings = front.function("load")(config, [*front.offline, *implied, *given])
        for key, value in front.function("evaluate")(run, settings).items():
            print(f"{key}: {value}")

    def export(run: RunFolder, out: Annotated[Path, typer.Argument(help=front.formats)]) -> None:
        print(front.function("export")(run, out))

    for command, about in (
        (train, f"Train {front.trained}, alone or as one of torchrun's ranks.\n\n{ENDS}"),
        (sweep, "Train every arm at every seed, then compare. Repeat to continue."),
        (compare, f"Compare runs: {front.compares}."),
        (evaluate, f"Measure a run's best {front.best}, or a file's, {front.measures}."),
        (export, f"Export a run's best {front.best}, for use without this project."),
    ):
        if command.__name__ not in front.own:
            app.command(help=about)(command)
    return app


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
        if not isinstance(path, str) or os.sep not in path or (given and not named):
            continue
        if "{" not in path and not user_path(path).exists():  # no shards
            raise VkdError(f"data.{key} = {path}: no such folder or file")


def run_app(app: typer.Typer) -> None:
    """Runs the application; expected failures print one line per fault and set the exit code.

    Also where standard output cannot be written; if its reader is gone, nothing is printed.
    """
    threading.excepthook = lambda died: print(f"vkd: {died.exc_value}", file=sys.stderr)
    with plain_output():
        code = _exit_code(app)
        try:
            print(end="", flush=True)  # nothing where standard output is closed
        except (VkdError, BrokenPipeError) as error:
            # what is left is written nowhere, since Python would try again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not code and isinstance(error, VkdError):
                print(f"vkd: {error}", file=sys.stderr)
            code = code or 1
    sys.exit(code)


def _exit_code(app: typer.Typer) -> Any:
    try:
        with one_line_without_memory("set device=cpu, or a smaller batch"):
            app()
    except VkdError as error:
        for line in str(error).split("\n"):
            print(f"vkd: {plain(line)}", file=sys.stderr)
        return error.exit_code
    except SystemExit as end:
        return end.code
