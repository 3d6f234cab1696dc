"""Files read and written with care: regular files only, and whole or not at all.

A run folder, a settings file or a data folder may come from a stranger: a name in it may be a
symbolic link to any other file, a pipe or a device.
"""

import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from errno import EISDIR
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

from gan_vkd.runtime.errors import SettingsError, VkdError

# which Windows lacks: not through a link, without waiting for the writer of a pipe
NO_LINK, NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)
TEMPORARY = re.compile(r"\..+\.\d+\.vkd-tmp")  # names of files that are being written


SHELL_PIPES = Path("/dev/fd")  # where bash puts those of <(command)


def user_path(text: str | Path) -> Path:
    """Returns a path that a user or a settings file gives, with ~ and ~NAME as home folders.

    Raises:
        SettingsError: no such home folder, a NUL in it, a name that no file can have, or a folder
            on the way that may not be entered.
    """
    shown = repr(str(text))[1:-1]
    shown = shown if len(shown) <= 100 else f"{shown[:100]}..."
    try:
        path = Path(text).expanduser()
        names = [os.fsencode(name) for name in path.parts]
    except RuntimeError:
        raise SettingsError(f"{shown}: no such user, whose home folder it could be") from None
    except UnicodeEncodeError:  # half of a surrogate pair
        names = [b"\0"]
    if any(b"\0" in name for name in names):
        raise SettingsError(f"{shown}: not a path (it has a character that no name can have)")
    if max(map(len, names), default=0) > 255 or len(os.fsencode(path)) > 4095:
        raise SettingsError(f"{shown}: not a path (more than 255 bytes in a name, or 4095 in all)")
    try:
        path.stat()
    except PermissionError as error:
        raise SettingsError(f"{shown}: cannot be reached ({reason(error)})") from None
    except OSError:  # none is there yet
        pass
    return path


def read_bytes(path: Path, most: int) -> bytes:
    """Returns the content of a regular file.

    Args:
        path: of the file; a link to a regular file is followed, a pipe of the shell's is read.
        most: the largest size in bytes that is read.

    Raises:
        VkdError: no such file, no permission, another kind of file (folder, pipe, device), or a
            larger one.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | NO_WAIT)
        with os.fdopen(descriptor, "rb") as file:
            kind = os.fstat(descriptor).st_mode
            if path.parent == SHELL_PIPES and stat.S_ISFIFO(kind):
                os.set_blocking(descriptor, True)
            elif not stat.S_ISREG(kind):
                raise VkdError(f"{path}: not a regular file")
            content = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise VkdError(f"{path}: cannot be read ({reason(error)})") from None
    if len(content) > most:
        raise VkdError(f"{path}: larger than {most / 2**20:g} MiB, the most that is read")
    return content


def read_text(path: Path, most: int) -> str:
    """Returns the content of a regular file of UTF-8 text, as `read_bytes` does.

    Raises:
        VkdError: as in `read_bytes`, or another encoding.
    """
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise VkdError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Calls write(binary file) on a new file beside `path`, syncs it and renames it to `path`.

    The new file has the permissions of the umask. A link of that name is replaced, not followed.

    Raises:
        VkdError: disk full, folder not writable; `path` is then as it was before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.vkd-tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            temporary.unlink()  # left by a killed process that had the same number
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | NO_LINK
        with os.fdopen(os.open(temporary, flags, 0o666), "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, ValueError) as error:
        untouched = "; the old file is untouched" if os.path.lexists(path) else ""
        raise VkdError(f"{path}: cannot be written ({reason(error)}){untouched}") from None
    finally:
        with suppress(OSError, ValueError):  # renamed, or never made
            temporary.unlink()


def require_writable(path: Path) -> None:
    """Tries whether `write_atomically` could write a file, before the work whose result it is.

    Nothing is made but for a moment, in the folder or, if it does not exist yet, the nearest one
    above it.

    Raises:
        VkdError: it could not.
    """
    folder = path.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        if path.is_dir():
            raise IsADirectoryError(EISDIR, "a folder")
        with NamedTemporaryFile(dir=folder, prefix=f".{path.name}.", suffix=".vkd-tmp"):
            pass
    except (OSError, ValueError) as error:
        raise VkdError(f"{path}: cannot be written ({reason(error)})") from None


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8, as `write_atomically` does."""
    write_atomically(path, lambda file: file.write(text.encode()))


def subfolder(folder: Path, name: str) -> Path:
    """Returns folder/name, which need not exist, but is not a link to another place.

    Raises:
        VkdError: it is a symbolic link.
    """
    path = folder / name
    if path.is_symlink():
        raise VkdError(
            f"{path}: a symbolic link, and nothing is written through it; move what it leads "
            "to here"
        )
    return path


def remove_unfinished(folder: Path) -> None:
    """Removes what killed processes had begun to write into a folder, not into its subfolders."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(folder):
            if TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)


def reason(error: BaseException) -> str:
    """Why an operation on a file failed, without the file's name."""
    return str(getattr(error, "strerror", None) or error)


def _sync_folder(folder: Path) -> None:
    """The new name outlives a loss of power too; Windows opens no folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
