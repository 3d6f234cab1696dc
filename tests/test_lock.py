"""The lock of a run folder: one process at a time, released when it exits."""

import os
import signal
import subprocess
import sys

import pytest

from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.lock import locked

HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom gan_vkd.runtime.lock import locked\n"
    "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
)


def test_another_process_is_refused_until_the_holder_exits(tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(VkdError, match=f"in use by process {holder.pid} on ") as caught,
        locked(folder),
    ):
        pass
    assert len(str(caught.value).splitlines()) == 1
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    with locked(folder):
        assert folder.is_dir()
    assert not folder.exists(), "an empty folder is removed"
    with locked(folder):
        (folder / "settings.yaml").write_text("")
    with locked(folder):
        pass
    assert (folder / "settings.yaml").exists()


def test_a_waiting_process_gets_the_lock_when_the_holder_exits(tmp_path, capsys):
    code = HOLD.replace("sleep(60)", "sleep(1)")
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with locked(tmp_path, wait=True):
        assert holder.wait(timeout=5) == 0
    assert f"waiting for process {holder.pid}" in capsys.readouterr().out


def test_a_process_cannot_lock_twice(tmp_path):
    with (
        locked(tmp_path / "run"),
        pytest.raises(VkdError, match="in use by process"),
        locked(tmp_path / "run"),
    ):
        pass


def test_a_surviving_worker_does_not_keep_the_lock(tmp_path):
    code = HOLD.replace("print(", "import os\n    os.fork() or time.sleep(30)\n    print(")
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / "run"):
        pass
    subprocess.run(["pkill", "-f", str(tmp_path / "run")], check=False)


def test_an_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VkdError, match="cannot be written"), locked(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize("kind", ["link", "hard link", "broken link", "pipe", "folder"])
def test_only_a_regular_file_is_taken_as_a_lock(kind, tmp_path):
    """In a stranger's folder it may lead to any file of the user's."""
    precious, folder = tmp_path / "precious", tmp_path / "data"
    precious.write_text("precious")
    folder.mkdir()
    lock = folder / ".lock"
    if kind == "link":
        lock.symlink_to(precious)
    elif kind == "hard link":
        lock.hardlink_to(precious)
    elif kind == "broken link":
        lock.symlink_to(tmp_path / "new")
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    for wait in (False, True):
        with pytest.raises(VkdError, match=r"\.lock: not a lock file"), locked(folder, wait=wait):
            pass
    assert precious.read_text() == "precious"
    assert not (tmp_path / "new").exists()
