"""Progress in a log: plain lines now and then; on a terminal one line that is redrawn."""

import io
import sys
from pathlib import Path

import pytest

from gan_vkd.runtime import bars
from gan_vkd.runtime.bars import progress_bar
from gan_vkd.runtime.terminal import choose_form, plain_output
from gan_vkd.training import train
from tests.conftest import MakeSettings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


Log = pytest.CaptureFixture[str]


def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "SILENT", 0.0)
    monkeypatch.setattr(bars, "EVERY", 0.0)


def test_a_log_gets_whole_lines(monkeypatch: pytest.MonkeyPatch, capsys: Log) -> None:
    at_once(monkeypatch)
    for _ in progress_bar(range(4), "samples"):
        pass
    shown = capsys.readouterr().err
    lines = shown.splitlines()
    assert lines[0].startswith("samples: 0%, 0 of 4, 00:00 so far")
    assert lines[2].startswith("samples: 50%, 2 of 4, ")
    assert all(line.startswith("samples: ") and line.endswith(" left") for line in lines)
    assert "\r" not in shown


def test_what_is_short_says_nothing(capsys: Log) -> None:
    assert list(progress_bar(range(4), "samples")) == [0, 1, 2, 3]
    assert capsys.readouterr().err == ""


def test_a_log_gets_few_lines(monkeypatch: pytest.MonkeyPatch, capsys: Log) -> None:
    monkeypatch.setattr(bars, "SILENT", 0.0)
    for _ in progress_bar(range(1000), "samples"):
        pass
    assert len(capsys.readouterr().err.splitlines()) == 1  # the next one is due in half a minute


def test_bars_on_a_terminal_share_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch)
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    for _ in progress_bar(range(2), "outer", leave=True):
        list(progress_bar(range(2), "inner"))
    assert "inner" in shown.getvalue()
    assert "\x1b" not in shown.getvalue()
    assert shown.getvalue().count("\n") == 1


@pytest.mark.parametrize("reason", ["quiet", "rank"])
def test_no_bar(reason: str, monkeypatch: pytest.MonkeyPatch, capsys: Log) -> None:
    at_once(monkeypatch)
    with plain_output():
        if reason == "quiet":
            choose_form("quiet")
        else:
            monkeypatch.setattr(bars.ranks, "is_first", lambda: False)
        assert list(progress_bar(range(2))) == [0, 1]
    assert capsys.readouterr().err == ""


def test_a_training_writes_no_control_characters_to_a_log(
    small: MakeSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Log,
) -> None:
    at_once(monkeypatch)
    with plain_output():
        train(small("train.iterations=2", "evaluate.every=2", arm="none"), tmp_path / "run")
    out, err = capsys.readouterr()
    assert "none: 100%, " in err
    assert "samples: " in err
    assert not {c for c in out + err if ord(c) < 32} - {"\n"}
