"""Every command on a stranger's run folder: one line, an exit code, no long wait, little memory and
no write outside of the folders that the command names."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_vkd import cli
from tests.processes import called
from tests.strangers import changed, copy_of, within_limits
from tests.test_strangers import cases

COMMANDS = [
    ["sample", "RUN", "--out", "OUT/grid.png"],
    ["interpolate", "RUN", "--out", "OUT/x.gif", "--seeds", "0-1", "--frames", "1"],
    ["progress", "RUN", "--out", "OUT/x.gif"],
    ["compare", "RUN", "--out", "OUT"],
    ["report", "RUN", "--out", "OUT/report.html"],
    ["report", "RUN", "--out", "OUT/report.html"],
    ["export", "RUN", "OUT/g.safetensors"],
    ["evaluate", "RUN", "evaluate.num_samples=20"],
    ["train", "RUN", "--resume", "--max-time", "1s"],
]


@cases(60)
@given(st.data())
def test_any_run_folder_ends_a_command_in_one_line(
    own_run: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    command = data.draw(st.sampled_from(COMMANDS))
    base = tmp_path_factory.mktemp("case")
    with copy_of(own_run, base) as run:
        if not changed(run, data.draw):
            return
        before = snapshot(base)
        words = [w.replace("RUN", str(run)).replace("OUT", str(base / "out")) for w in command]
        with within_limits():
            ended = called(cli.main, *words)
        code, message = ended.returncode, without_bars(ended.stderr)
        context = (words, code, message[-500:])
        assert code in (0, 1, 2, 124), context
        if code:
            assert all(line.startswith("vkd: ") for line in message.splitlines()), context
            assert 5 < len(message) < 5000, context
        assert "\x1b" not in message, context
        after = snapshot(base)
        named = {base / "out"} | ({run} if command[0] in ("evaluate", "train") else set())
        written = {p for p in before.keys() | after.keys() if before.get(p) != after.get(p)}
        elsewhere = [p for p in written if not named & {p, *p.parents}]
        assert not elsewhere, context


def without_bars(errors: str) -> str:
    """The text of standard error without progress bars."""
    return "\n".join(line for line in errors.splitlines() if " so far, " not in line)


def snapshot(folder: Path) -> dict[Path, Any]:
    """Every path with its kind, size and time."""
    found: dict[Path, Any] = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent, name)
            status = path.lstat()
            found[path] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found
