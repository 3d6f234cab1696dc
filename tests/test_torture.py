"""Killed runs, full disks and damaged checkpoints: tests/torture.py at small size."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gan_vkd.cli import main
from gan_vkd.run import Run
from gan_vkd.runtime.checkpoint import load_state
from tests.processes import called
from tests.torture import torture, write_settings


def test_a_repeatedly_killed_run_loses_no_checkpoint(
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


def test_a_full_disk_is_a_one_line_error_and_keeps_the_last_checkpoint(
    small_tmpfs: Path, tmp_path: Path
) -> None:
    settings = write_settings(tmp_path, iterations=200)
    run = small_tmpfs / "run"
    ended = called(main, "train", settings, "--out", run)
    assert ended.returncode == 1
    lines = [line for line in ended.stderr.splitlines() if line.startswith("vkd: ")]
    assert "No space left on device" in lines[-1]
    assert "Traceback" not in ended.stderr
    for file in Run(run).checkpoints():
        load_state(file)
    assert Run(run).checkpoints()
    assert not list(run.rglob(".*.vkd-tmp"))
