"""Text on its way out: characters that command a terminal are written as escapes, and what scripts
ask for (--quiet, --json) is said in place of the usual text."""

import json
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import reason

# C0 without tab and newline, DEL, C1, bidirectional overrides and isolates, halves of surrogates
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """The text with each character that could command a terminal as its Python escape."""
    return _COMMANDS.sub(lambda found: repr(found[0])[1:-1], text)


class PlainStream:
    """A stream that writes `plain` text, but for carriage returns of progress bars.

    Raises:
        VkdError: it cannot be written, as on a full disk; BrokenPipeError: its reader is gone.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _written():
            self._stream.write("\r".join(map(plain, text.split("\r"))))
        return len(text)

    def flush(self) -> None:
        with _written():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _written() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise VkdError(f"the output cannot be written ({reason(error)})") from None


@contextmanager
def plain_output() -> Iterator[None]:
    """Within it, standard output and standard error are plain: names and texts in run folders, data
    and error messages may be a stranger's."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and PlainStream(stream) for stream in before)  # None: closed
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        vars(_said).update(vars(_Said()))


# What a command says


@dataclass
class _Said:
    """form: of the output. results: standard output, while other text is kept from it. facts: what
    the JSON object has."""

    form: Literal["text", "quiet", "json"] = "text"
    results: TextIO | None = None
    facts: dict[str, Any] = field(default_factory=dict)


_said = _Said()


def choose_form(form: Literal["quiet", "json"]) -> None:
    """Keeps all text but errors and results from standard output, until `plain_output` ends.

    form: quiet, the text of results; json, one object of all their facts, at the end, while other
    text goes to standard error. Only the first of torchrun's ranks gives results.
    """
    nowhere = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)
    first = os.environ.get("RANK", "0") == "0"
    _said.form, _said.results = form, sys.stdout if first and sys.stdout else nowhere
    sys.stdout = nowhere if form == "quiet" else sys.stderr


def is_form_chosen() -> bool:
    """Whether `choose_form` was called."""
    return _said.results is not None


def is_quiet() -> bool:
    """Whether only errors and results are wanted."""
    return _said.form == "quiet"


def result(text: str = "", **facts: Any) -> None:
    """Says the result of a command: prints the text if any, keeps the facts for the JSON object."""
    if text:
        print(text, file=_said.results if is_quiet() else sys.stdout)
    _said.facts |= facts


def finish(code: int, error: str = "") -> None:
    """Writes the JSON object, if that is wanted, and what is left in the buffer of standard output.

    Raises:
        VkdError, BrokenPipeError: as in `PlainStream`.
    """
    if _said.results is not None:
        sys.stdout = _said.results
    if _said.form == "json":
        object_ = {"exit_code": code} | ({"error": error} if error else {}) | _said.facts
        print(json.dumps(_valid(object_), default=str))
    print(end="", flush=True)  # nothing where standard output is closed


def _valid(value: Any) -> Any:
    """The value with numbers that JSON lacks (nan, inf) as None."""
    if isinstance(value, dict):
        return {str(key): _valid(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
