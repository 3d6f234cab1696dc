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
