"""A lock on a folder, held by one process at a time."""

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import reason

_held: set[Path] = set()  # by this process, which fcntl would let lock twice


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Locks the folder for this process. The system releases it whenever the process ends.

    Args:
        folder: created if it does not exist.
        wait: wait for a process that holds the lock, instead of raising.

    Raises:
        VkdError: another process holds the lock, or the folder cannot be written.
    """
    file = folder.absolute() / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _opened(file)
    except (OSError, ValueError) as error:
        raise VkdError(f"{folder}: cannot be written ({reason(error)})") from None
    with handle:
        try:
            if file in _held:
                raise BlockingIOError
            # not inherited by forked workers, which may outlive this process
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            handle.seek(0)
            holder = handle.read(200).strip() or "another process"
            if not wait:
                raise VkdError(
                    f"{folder}: in use by {holder}; wait for it, or choose another --out"
                ) from None
            print(f"{folder}: waiting for {holder}", flush=True)
            fcntl.lockf(handle, fcntl.LOCK_EX)
        except OSError as error:  # a file system without locks
            print(f"{folder}: not locked ({error.strerror}); ensure that no other run uses it")
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        handle.flush()
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)
            with suppress(OSError):
                if not wait and [entry.name for entry in folder.iterdir()] == [file.name]:
                    file.unlink()  # nothing was written
                    folder.rmdir()


def _opened(file: Path) -> TextIO:
    """Opens the lock file, and makes it where there is none.

    Raises:
        VkdError: a link, pipe or device of that name, in a stranger's folder: to write to it could
            harm another file.
        OSError: it cannot be opened.
    """
    if os.path.lexists(file):
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise VkdError(f"{file}: not a lock file (a link, folder, pipe or device); remove it")
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    return os.fdopen(os.open(file, flags, 0o666), "r+", errors="replace")
