"""A lock on a folder, held by one process at a time."""

import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import NO_LINK, reason

_held: set[Path] = set()  # by this process, which fcntl would let lock twice
FAR = 2**30  # the byte that Windows locks, which nobody reads


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
            _take(handle.fileno())
        except (BlockingIOError, PermissionError):
            handle.seek(0)
            holder = handle.read(200).strip() or "another process"
            if not wait:
                raise VkdError(
                    f"{folder}: in use by {holder}; wait for it, or choose another --out"
                ) from None
            print(f"{folder}: waiting for {holder}", flush=True)
            _take(handle.fileno(), wait=True)
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


def _take(descriptor: int, wait: bool = False) -> None:
    """Locks an open file for this process.

    Raises:
        BlockingIOError, PermissionError: another process holds the lock (`wait` waits for it).
        OSError: a file system without locks.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, FAR, os.SEEK_SET)
        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
                return
            except PermissionError:
                if not wait:
                    raise
            time.sleep(1)
    import fcntl

    # not inherited by forked workers, which may outlive this process
    fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


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
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | NO_LINK
    return os.fdopen(os.open(file, flags, 0o666), "r+", errors="replace")
