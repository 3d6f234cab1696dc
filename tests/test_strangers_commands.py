"""Every command on a stranger's run folder: one line, an exit code, no long wait, little memory and
no write outside of the folders that the command names."""

import contextlib
import io
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_vkd import cli
from tests.strangers import changed
from tests.test_strangers import Reader, cases, check, own_run, readers

__all__ = ["own_run", "readers"]

SECONDS = 5
MEMORY = 2**30  # bytes more than before

COMMANDS = [
    ["sample", "RUN", "--out", "OUT/grid.png"],
    ["compare", "RUN", "--out", "OUT"],
    ["export", "RUN", "OUT/g.safetensors"],
    ["evaluate", "RUN", "evaluate.num_samples=20"],
    ["train", "RUN", "--resume", "--max-time", "3s"],
]


@cases(400)
@given(st.data())
def test_any_run_folder_is_read_or_refused(
    own_run: Path,
    readers: list[Reader],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    check(own_run, readers, tmp_path_factory.mktemp("case"), data.draw)


@cases(60)
@given(st.data())
def test_any_run_folder_ends_a_command_in_one_line(
    own_run: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    base = tmp_path_factory.mktemp("case")
    try:
        run, outside = base / "run", base / "outside"
        shutil.copytree(own_run, run)
        outside.mkdir()
        (outside / "precious").write_text("precious")
        if not changed(run, data.draw):
            return
        before = snapshot(base)
        command = data.draw(st.sampled_from(COMMANDS))
        words = [w.replace("RUN", str(run)).replace("OUT", str(base / "out")) for w in command]
        code, message, seconds, grown = called(words)
        told = (words, code, message[-500:])
        assert code in (0, 1, 2, 124), told
        if code:
            assert message.startswith("vkd: "), told
            assert all(line.startswith("vkd: ") for line in message.splitlines()), told
            assert len(message) < 5000, told
        assert "\x1b" not in message, told
        assert seconds < SECONDS, told
        assert grown < MEMORY, told
        after = snapshot(base)
        allowed = {base / "out"} | ({run} if command[0] in ("evaluate", "train") else set())
        differing = {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
        outside_of_them = [
            p for p in differing if not any(a == p or a in p.parents for a in allowed)
        ]
        assert not outside_of_them, told
    finally:
        shutil.rmtree(base)


def called(words: list[str]) -> tuple[int, str, float, int]:
    """Exit code, standard error, seconds and bytes of more memory of a command."""
    said, shown = io.StringIO(), io.StringIO()
    memory, since = peak(), time.perf_counter()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown),
    ):  # fmt: skip
        patch.setattr(sys, "argv", ["vkd", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
    lines = [line.rpartition("\r")[2] for line in said.getvalue().splitlines()]
    text = "\n".join(line for line in lines if line.strip() and "it/s" not in line)
    return code, text, time.perf_counter() - since, peak() - memory


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def snapshot(folder: Path) -> dict[Path, Any]:
    """Every path with its kind, and the content of what is not in the run or the output."""
    found: dict[Path, Any] = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent, name)
            status = path.lstat()
            found[path] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found
