"""One process at a time in a folder."""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gan_vkd.errors import VkdError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder for this process. The system lets go of it when the process ends, however.

    Raises:
        VkdError: another process has it, or the folder cannot be written.
    """
    file = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(file, "a+")  # noqa: SIM115
    except OSError as error:
        raise VkdError(f"{folder}: cannot be written ({error.strerror})") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read(200).strip() or "another process"
            raise VkdError(
                f"{folder}: in use by {holder}; wait for it, or choose another --out"
            ) from None
        except OSError as error:  # a file system without locks
            print(f"{folder}: not locked ({error.strerror}); see that no other run writes there")
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        handle.flush()
        try:
            yield
        finally:
            if [entry.name for entry in folder.iterdir()] == [file.name]:
                shutil.rmtree(folder)  # nothing came of it
