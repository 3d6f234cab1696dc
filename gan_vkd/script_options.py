"""The options --quiet and --json, for commands whose results scripts read."""

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, Literal, TypeVar

import typer

from gan_vkd.runtime.terminal import choose_form, is_form_chosen

Command = TypeVar("Command", bound=Callable[..., Any])


def _quiet(context: typer.Context, chosen: bool) -> None:
    _choose("quiet", context, chosen)


def _json(context: typer.Context, chosen: bool) -> None:
    _choose("json", context, chosen)


def _choose(form: Literal["quiet", "json"], context: typer.Context, chosen: bool) -> None:
    if not chosen or context.resilient_parsing:  # of the shell's completion
        return
    if is_form_chosen():
        raise typer.BadParameter("--quiet and --json: give one of them")
    choose_form(form)


OPTIONS = {
    "quiet": Annotated[
        bool,
        typer.Option("--quiet", callback=_quiet, is_eager=True, help="Only errors and the result."),
    ],
    "json": Annotated[
        bool,
        typer.Option(
            "--json",
            callback=_json,
            is_eager=True,
            help="The result as one JSON object on standard output, all else on standard error.",
        ),
    ],
}


def for_scripts(command: Command) -> Command:
    """Adds --quiet and --json to a command, whose results are said by `terminal.result`."""

    @wraps(command)
    def called(*arguments: Any, quiet: bool, json: bool, **options: Any) -> Any:
        return command(*arguments, **options)

    added = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in OPTIONS.items()
    ]
    own = signature(command)
    called.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*own.parameters.values(), *added]
    )
    called.__annotations__ = {**command.__annotations__, **OPTIONS}
    return called  # type: ignore[return-value]
