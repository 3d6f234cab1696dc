"""What a user is told when a run cannot go on: one line, and the exit code of the command."""

from collections.abc import Iterator
from contextlib import contextmanager


class VkdError(Exception):
    """The work cannot go on: a file, a device, a number that is not finite."""

    exit_code = 1


class SettingsError(VkdError):
    """The settings cannot be used; no work has been done."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """What an error of somebody else's says, or its kind where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextmanager
def one_line_without_memory(advice: str) -> Iterator[None]:
    """Turns the many ways of running out of memory into one line with what to do.

    Args:
        advice: against running out of the device's.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said, kind = str(error), type(error).__name__
        signs = ("not enough memory", "allocate memory")
        if kind in ("OutOfMemoryError", "MemoryError") or any(sign in said for sign in signs):
            raise VkdError(f"out of memory; {advice}") from None
        if "DataLoader worker (pid" in said or "out of shared memory" in said:
            raise VkdError(
                f"a process that reads images is gone ({one_line(error)}); set fewer data.workers, "
                "or give the container more shared memory (docker run --shm-size=16g)"
            ) from None
        raise
