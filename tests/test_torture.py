"""Runs killed, cut off from their disk, and damaged: the small size of tests/torture.py."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gan_vkd.run import Run
from gan_vkd.runtime.checkpoint import load_state
from tests.torture import torture, write_settings


def test_a_run_that_is_killed_again_and_again_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torture(tmp_path, kills=4, seed=0)
    assert "200 damaged checkpoints refused" in capsys.readouterr().out


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_whole(
    small_tmpfs: Path, tmp_path: Path
) -> None:
    settings = write_settings(tmp_path, iterations=200)
    run = small_tmpfs / "run"
    command = [sys.executable, "-m", "gan_vkd", "train", str(settings), "--out", str(run)]
    ended = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    said = [line for line in ended.stderr.splitlines() if line.startswith("vkd: ")]
    assert "No space left on device" in said[-1]
    assert "Traceback" not in ended.stderr
    for file in Run(run).checkpoints():
        load_state(file)
    assert Run(run).checkpoints()
    assert not list(run.rglob(".*.vkd-tmp"))
