"""What Windows lacks is guarded, and the names that runs get are names there, too."""

import ast
import os
import signal
import sys
from pathlib import Path, PureWindowsPath
from types import ModuleType

import pytest

from gan_vkd.runtime import lock
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.lock import locked
from gan_vkd.runtime.settings_names import short_name
from tests.processes import CONTEXT
from tests.test_imports import modules

MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog", "posix"}
MISSING = {
    "os": {"O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "fork", "forkpty", "getuid", "geteuid",
           "getpgid", "killpg", "setsid", "nice", "sched_getaffinity", "sched_setaffinity",
           "sysconf", "statvfs", "mkfifo", "uname", "getloadavg", "pread", "posix_fallocate",
           "set_blocking", "chown", "fchmod", "wait"},
    "signal": {"SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGALRM", "SIGCHLD", "SIGPIPE", "alarm",
               "pthread_sigmask", "pause", "setitimer"},
}  # fmt: skip
# with hasattr, or on a path that Windows does not take: pipes of a shell, SLURM, other branches
GUARDED = {
    "gan_vkd.runtime.memory": {"resource", "sysconf"},
    "gan_vkd.runtime.lock": {"fcntl"},
    "gan_vkd.runtime.files": {"set_blocking"},
    "gan_vkd.runtime.stopping": {"alarm"},
    "gan_vkd.data.storage": {"posix_fallocate"},
    "gan_vkd.sweep.slurm": {"pthread_sigmask", "SIGUSR1", "SIGUSR2"},
    "gan_vkd.runtime.devices": {"sched_getaffinity"},
}


def used(path: Path) -> set[str]:
    """What a module takes of MODULES and MISSING."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module)} & MODULES
            found |= {alias.name for alias in node.names} & MISSING.get(str(node.module), set())
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found |= {node.attr} & MISSING.get(node.value.id, set())
    return found


def test_nothing_that_windows_lacks_is_used_unguarded() -> None:
    found = {name: used(path) for name, path in modules().items()}
    assert {name: what for name, what in found.items() if what} == GUARDED


def _import_all(names: list[str]) -> None:
    """In a process of its own: imports every module where Windows' gaps are.

    Other packages are imported before, with all that this system has.
    """
    for name in names:
        __import__(name)
    for name in MODULES - {"posix"}:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, missing in ((os, MISSING["os"]), (signal, MISSING["signal"])):
        for name in missing - {"fork"} & set(vars(module)):
            delattr(module, name)
    for name in [n for n in sys.modules if n.partition(".")[0] in ("gan_vkd", "classification")]:
        del sys.modules[name]
    for name in names:
        __import__(name)


def test_all_modules_are_imported_without_what_windows_lacks() -> None:
    names = [name for name in modules() if not name.endswith("__main__")]
    process = CONTEXT.Process(target=_import_all, args=(names,))
    process.start()
    process.join()
    assert process.exitcode == 0


class Byte(ModuleType):
    """msvcrt's locking of a byte: one holder, others are refused."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        super().__init__("msvcrt")
        self.calls: list[int] = []
        self.refusals = 0

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        self.calls.append(os.lseek(descriptor, 0, os.SEEK_CUR))
        if self.refusals:
            self.refusals -= 1
            raise PermissionError(13, "Permission denied")


@pytest.fixture
def msvcrt(monkeypatch: pytest.MonkeyPatch) -> Byte:
    byte = Byte()
    monkeypatch.setitem(sys.modules, "msvcrt", byte)
    monkeypatch.setattr(lock.sys, "platform", "win32")
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: None)
    return byte


def test_a_folder_is_locked_by_a_byte_that_nobody_reads(msvcrt: Byte, tmp_path: Path) -> None:
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    assert msvcrt.calls == [lock.FAR]


def test_a_lock_of_another_process_is_refused_or_waited_for(msvcrt: Byte, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 1 on there\n")
    msvcrt.refusals = 1
    with pytest.raises(VkdError, match="in use by process 1 on there"), locked(tmp_path):
        pass
    msvcrt.refusals = 3
    with locked(tmp_path, wait=True):
        assert msvcrt.refusals == 0


@pytest.mark.parametrize(
    "arm", ["a:b", "CON", "aux.", "x?", 'a"b', "a*b", "a|b", "<a>", "a/b", "a\\b", "nul .", "é"]
)
def test_the_name_of_an_arm_is_a_file_name(arm: str) -> None:
    folder = f"{short_name(Path(f'quickstart+arm={arm}'))}_seed0"
    for name in (folder, f"{folder}.log"):
        assert not set(name) & set('<>:"/\\|?*')
        assert not name.endswith((".", " "))
        assert not PureWindowsPath(name).is_reserved()
        assert PureWindowsPath(name).name == name
