"""A lock on a folder, held by one process at a time."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gan_vkd.runtime.errors import VkdError

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
        handle = open(file, "a+")  # noqa: SIM115
    except OSError as error:
        raise VkdError(f"{folder}: cannot be written ({error.strerror})") from None
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
