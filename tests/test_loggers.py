"""TensorBoard events, and runs whose logger fails."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.loggers import LOGGERS
from gan_vkd.runtime.loggers.interface import Logger
from gan_vkd.runtime.loggers.tensorboard import TensorBoard
from gan_vkd.training import train
from tests.conftest import MakeSettings, small_disk


def fill(board: TensorBoard, count: int) -> None:
    for iteration in range(count):
        board.scalars("train", {"loss": float(iteration), "name": "left out"}, iteration)
        board.image("samples", torch.randint(256, (3, 32, 32), dtype=torch.uint8), iteration)
        board.histograms("scores", {"fake": torch.rand(100)}, iteration)


def test_events_are_written(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, purge_step=1)
    fill(board, 3)
    board.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [e.value for e in events.Scalars("train/loss")] == [0, 1, 2]
    assert events.Tags()["images"] == ["samples"]
    assert events.Tags()["histograms"] == ["scores/fake"]


def test_a_full_disk_ends_only_the_events(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = TensorBoard(tmp_path, purge_step=1)
    with small_disk(10_000):
        fill(board, 200)
        board.close()
    board.close()
    fill(board, 1)
    assert capsys.readouterr().out.count("no TensorBoard events from now on") == 1


def test_an_unwritable_folder_ends_only_the_events(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    board = TensorBoard(tmp_path / "file" / "events", purge_step=1)
    fill(board, 1)
    board.close()
    assert "no TensorBoard events from now on" in capsys.readouterr().out


def test_a_run_uses_the_logger_of_its_settings(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, int]] = []

    class Listing(Logger):
        def scalars(self, prefix: str, values: dict[str, Any], iteration: int) -> None:
            shown.append((prefix, iteration))

        def close(self) -> None:
            shown.append(("closed", 0))

    monkeypatch.setitem(LOGGERS._makers, "none", lambda folder, first: Listing())
    settings = small("train.logger=none", "train.iterations=2", "train.log_every=1", arm="none")
    train(settings, tmp_path / "run")
    assert [entry for entry in shown if entry[0] == "train"] == [("train", 1), ("train", 2)]
    assert ("evaluate", 2) in shown
    assert shown[-1] == ("closed", 0)
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_an_unknown_logger_is_refused(small: MakeSettings) -> None:
    with pytest.raises(
        SettingsError, match=r"train\.logger = 'paper': no logger of that name; known: "
    ):
        small("train.logger=paper")
