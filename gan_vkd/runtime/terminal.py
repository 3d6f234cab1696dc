"""Text on its way out: characters that command a terminal are written as escapes."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

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
