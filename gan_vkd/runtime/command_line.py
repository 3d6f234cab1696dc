"""What the command lines share: their options, what `train` is told, and how a command ends."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from gan_vkd.runtime.errors import VkdError, one_line_without_memory
from gan_vkd.runtime.settings_names import extended, short_name

if TYPE_CHECKING:
    from gan_vkd.runtime.settings import RunSettings

AnySettings = TypeVar("AnySettings", bound="RunSettings")

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


def run_app(app: typer.Typer) -> None:
    """A console command: every expected failure is a line a fault and an exit code."""
    threading.excepthook = lambda died: print(f"vkd: {died.exc_value}", file=sys.stderr)
    try:
        with one_line_without_memory("set device=cpu, or a smaller batch"):
            app()
    except VkdError as error:
        for line in str(error).splitlines():
            print(f"vkd: {line}", file=sys.stderr)
        sys.exit(error.exit_code)


def what_to_train(
    load: Callable[[Path, list[str] | None], AnySettings],
    config: Path,
    overrides: list[str] | None,
    out: Path | None,
    resume: bool,
    max_time: str | None,
) -> tuple[AnySettings, Path, bool, float | None]:
    """What a `train` is called with: settings, run folder, whether it resumes, and its seconds."""
    from gan_vkd.runtime.stopping import seconds

    budget = None if max_time is None else seconds(max_time)
    config, overrides = extended(config, overrides or [])
    settings = load(config, overrides)
    name = short_name(config)
    usual = config if config.is_dir() else Path("runs", name, f"seed{settings.seed}")
    return settings, out or usual, resume, budget
