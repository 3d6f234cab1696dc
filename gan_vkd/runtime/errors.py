"""Errors that end a command with a one-line message and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager


class VkdError(Exception):
    """An expected failure, of a file or a device, or by a number that is not finite."""

    exit_code = 1


class SettingsError(VkdError):
    """Invalid settings; raised before any work is done."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """Returns an exception's message on one line (at most 200 characters), or its type if empty."""
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def one_line_without_memory(advice: str) -> Iterator[None]:
    """Turns the various out-of-memory errors into a VkdError with one line of advice.

    Args:
        advice: what to do when the memory of the device or the host is exhausted.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        message, kind = str(error), type(error).__name__
        signs = ("not enough memory", "allocate memory")
        if kind in ("OutOfMemoryError", "MemoryError") or any(sign in message for sign in signs):
            raise VkdError(f"out of memory; {advice}") from None
        if "DataLoader worker (pid" in message or "out of shared memory" in message:
            raise VkdError(
                f"a data loader worker died ({one_line(error)}); set fewer data.workers, "
                "or give the container more shared memory (docker run --shm-size=16g)"
            ) from None
        raise
