"""How a run ends: finished, or stopped by a signal or a limit of wall-clock time."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from types import FrameType
from typing import Any

from gan_vkd.runtime.errors import SettingsError, VkdError

SECOND = 1.0  # seconds in which a repeated signal is ignored: launchers send it twice


# which Windows lacks: the closed terminal, and the warning before a scheduler's time limit
HANGUP, WARNING = (getattr(signal, name, None) for name in ("SIGHUP", "SIGUSR1"))
STOPS = [n for n in (signal.SIGINT, signal.SIGTERM, HANGUP, WARNING) if n is not None]


class End(IntEnum):
    """How a run ended; the value is the exit code of its command."""

    FINISHED = 0
    OUT_OF_TIME = 124  # as of timeout(1)
    SIGHUP = 128 + (HANGUP or 1)
    SIGINT = 128 + signal.SIGINT
    SIGUSR1 = 128 + (WARNING or 10)
    SIGTERM = 128 + signal.SIGTERM


class Stopped(VkdError):
    """A run or sweep stopped at a signal or time limit; no work is lost."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def ignored_hangup() -> bool:
    """Returns whether SIGHUP is ignored, as under nohup."""
    return HANGUP is not None and signal.getsignal(HANGUP) == signal.SIG_IGN


@contextmanager
def handled(
    numbers: Sequence[int], handle: Callable[[int, FrameType | None], Any]
) -> Iterator[None]:
    """Installs a signal handler within the context. An ignored SIGHUP (nohup) stays ignored."""
    numbers = [n for n in numbers if n != HANGUP or not ignored_hangup()]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def outlive(worker: int) -> None:
    """Initialises a data loader's worker to survive signals that a launcher sends to all processes:
    the run needs batches until it stops. After SIGTERM the worker lives for another minute."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(60))


class Stop:
    """Whether to stop after the current iteration.

    A stop is requested by SIGINT, SIGTERM, SIGHUP or SIGUSR1 (which SLURM sends before its limit),
    after `budget` seconds, or by the death of the process that started this one, `parent`, such as
    a torchrun that was killed without signalling its ranks. A second SIGINT or SIGTERM raises
    KeyboardInterrupt at once.
    """

    def __init__(self, budget: float | None = None, parent: int | None = None) -> None:
        self.deadline = None if budget is None else time.monotonic() + budget
        self.signal, self._since = 0, 0.0
        self._parent = parent
        self._terminals: list[int] = []

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        self._terminals = [number for number in (1, 2) if os.isatty(number)]
        with handled(STOPS, self._handle):
            yield self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == HANGUP:  # the terminal is gone: writing to it would fail
            null = os.open(os.devnull, os.O_WRONLY)
            for terminal in self._terminals:
                os.dup2(null, terminal)
            os.close(null)
        if not self.signal:
            self.signal, self._since = number, now
            with suppress(OSError):  # print is not reentrant, and the signal may interrupt one
                os.write(2, b"\nstopping after this iteration\n")
        elif number in (signal.SIGINT, signal.SIGTERM) and now - self._since >= SECOND:
            raise KeyboardInterrupt

    @property
    def end(self) -> End:
        """The reason to stop now; FINISHED: none, train to the last iteration."""
        if self.signal:
            return End(128 + self.signal)
        if self._parent not in (None, os.getppid()):
            return End.SIGTERM
        over = self.deadline is not None and time.monotonic() >= self.deadline
        return End.OUT_OF_TIME if over else End.FINISHED


def seconds(text: str) -> float:
    """Parses a time such as 45s, 90m, 3h30m, 1d, 02:30:00, or @N: until the Unix time N.

    Raises:
        SettingsError: the text has another form.
    """
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    parts = re.fullmatch(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", text)
    if parts and any(parts.groups()):
        return sum(int(n or 0) * u for n, u in zip(parts.groups(), units.values(), strict=True))
    if clock := re.fullmatch(r"(\d{1,9}):([0-5]\d):([0-5]\d)", text):
        hours, minutes, rest = map(int, clock.groups())
        return 3600 * hours + 60 * minutes + rest
    if until := re.fullmatch(r"@(\d{1,12})", text):
        return int(until[1]) - time.time()
    shown = text if len(text) <= 100 else f"{text[:100]}..."
    raise SettingsError(f"--max-time {shown}: expected a time such as 45s, 90m, 3h30m or 02:30:00")
