"""Progress bars with the time left: redrawn on a terminal, plain lines now and then in a log."""

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

from gan_vkd.runtime import ranks
from gan_vkd.runtime.terminal import is_quiet

SILENT = 2.0  # seconds: what takes less shows no bar
EVERY = 30.0  # seconds between the lines of a log
LINE = (
    "{desc}: {percentage:.0f}%, {n_fmt} of {total_fmt}, {elapsed} so far, {remaining} left{postfix}"
)


def on_terminal() -> bool:
    """Whether bars may be redrawn: standard error is a terminal, and --quiet is not given."""
    return sys.stderr is not None and sys.stderr.isatty() and not is_quiet()


class _Log:
    """The stream of a bar that is not on a terminal: each redrawing is a line, without "\\r"."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        self._stream.flush()


def progress_bar(
    items: Iterable[Any] | None = None, desc: str = "", leave: bool = False, **options: Any
) -> "tqdm[Any]":
    """Returns a bar on standard error, over `items` or moved by `update`.

    It is shown after SILENT seconds, by the first rank only, and not with --quiet. All bars are on
    one line, so that no control character but "\\r" is needed for one within another.

    Args:
        items: with a length, or `total` in the options.
        desc: what takes the time.
        leave: keep the finished bar.
        options: of tqdm.
    """
    options |= {"leave": leave, "position": 0, "delay": SILENT}
    options["disable"] = sys.stderr is None or is_quiet() or not ranks.is_first()
    if options["disable"] or on_terminal():
        return tqdm(items, desc, mininterval=0.5, dynamic_ncols=True, **options)
    log: Any = _Log(sys.stderr)
    return tqdm(items, desc, file=log, mininterval=EVERY, miniters=1, bar_format=LINE, **options)
