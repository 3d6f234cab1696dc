"""CSV of scalars, and Weights & Biases: what is logged, and what a resumed run repeats."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import write_text
from gan_vkd.runtime.loggers import LOGGERS
from gan_vkd.runtime.loggers.interface import Logger
from tests.conftest import small_disk


def fill(logger: Logger, *iterations: int, factor: float = 1.0) -> None:
    for iteration in iterations:
        logger.scalars("train", {"loss": factor * iteration, "name": "left out"}, iteration)
        if iteration % 2 == 0:
            logger.scalars("evaluate", {"FD(a, b)": factor * iteration}, iteration)


def rows(folder: Path) -> list[tuple[int, str, float]]:
    with (folder / "scalars.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    return [(int(row["iteration"]), row["name"], float(row["value"])) for row in found]


def expected(*iterations: int, factor: float = 1.0) -> list[tuple[int, str, float]]:
    names = {0: ["train/loss", "evaluate/FD(a, b)"], 1: ["train/loss"]}
    return [(i, name, factor * i) for i in iterations for name in names[i % 2]]


def test_scalars_are_rows(tmp_path: Path) -> None:
    logger = LOGGERS.make("csv", tmp_path, 1)
    logger.scalars("train", {"loss": 0.1, "nan": float("nan"), "count": 3}, 1)
    logger.image("samples", torch.zeros(3, 4, 4, dtype=torch.uint8), 1)
    logger.histograms("scores", {"fake": torch.rand(4)}, 1)
    logger.close()
    text = (tmp_path / "scalars.csv").read_text()
    assert text == "iteration,name,value\n1,train/loss,0.1\n1,train/nan,nan\n"


def test_pandas_reads_the_scalars(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    fill(LOGGERS.make("csv", tmp_path, 1), 1, 2, 3)
    table = pandas.read_csv(tmp_path / "scalars.csv")
    table = table.pivot(index="iteration", columns="name", values="value")
    assert table["train/loss"].tolist() == [1, 2, 3]
    assert table["evaluate/FD(a, b)"].dropna().to_dict() == {2: 2}


@pytest.mark.parametrize("checkpoint", [0, 2, 3, 4])
def test_a_resumed_run_replaces_what_it_repeats(checkpoint: int, tmp_path: Path) -> None:
    fill(LOGGERS.make("csv", tmp_path, 1), 1, 2, 3, 4)
    again = range(checkpoint + 1, 7)
    fill(LOGGERS.make("csv", tmp_path, checkpoint + 1), *again, factor=2.0)
    assert rows(tmp_path) == [*expected(*range(1, checkpoint + 1)), *expected(*again, factor=2.0)]


def test_a_rollback_replaces_what_it_repeats(tmp_path: Path) -> None:
    logger = LOGGERS.make("csv", tmp_path, 1)
    fill(logger, 1, 2, 3, 4)
    fill(logger, 3, 4, 5, factor=2.0)
    assert rows(tmp_path) == [*expected(1, 2), *expected(3, 4, 5, factor=2.0)]


def test_an_evaluation_that_is_repeated_at_the_checkpoint_replaces_its_rows(tmp_path: Path) -> None:
    """If a run is killed during the evaluation after a checkpoint, it is evaluated again."""
    fill(LOGGERS.make("csv", tmp_path, 1), 1, 2)
    logger = LOGGERS.make("csv", tmp_path, 3)
    logger.scalars("evaluate", {"FD(a, b)": 7.0}, 2)
    assert rows(tmp_path) == [
        (1, "train/loss", 1),
        (2, "train/loss", 2),
        (2, "evaluate/FD(a, b)", 7),
    ]


def test_a_truncated_last_row_is_dropped(tmp_path: Path) -> None:
    fill(LOGGERS.make("csv", tmp_path, 1), 1, 2)
    file = tmp_path / "scalars.csv"
    file.write_text(file.read_text() + "3,tra")
    fill(LOGGERS.make("csv", tmp_path, 4), 5)
    assert rows(tmp_path) == expected(1, 2, 5)


def test_a_link_in_place_of_the_file_is_not_written_through(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("precious\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "scalars.csv").symlink_to(other)
    fill(LOGGERS.make("csv", tmp_path / "run", 1), 1)
    assert other.read_text() == "precious\n"
    assert rows(tmp_path / "run") == expected(1)


def test_a_full_disk_ends_only_the_scalars(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = LOGGERS.make("csv", tmp_path, 1)
    with small_disk(1000):
        fill(logger, *range(1, 200))
    fill(logger, 200)
    logger.close()
    assert capsys.readouterr().out.count("scalars.csv: no scalars from now on") == 1


class Recorder:
    """Stands in for wandb."""

    Image = Histogram = staticmethod(lambda array: array.shape)
    Settings = staticmethod(lambda **options: options)

    def __init__(self, fails: bool = False) -> None:
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[dict[str, Any], int]] = []
        self.fails, self.ended = fails, 0

    def init(self, **options: Any) -> "Recorder":
        self.started.append(options)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        if self.fails:
            raise RuntimeError("no network")
        self.logged.append((values, step))

    def finish(self) -> None:
        self.ended += 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_text(tmp_path / "run" / "settings.yaml", "arm: none\nseed: 3\n")
    return tmp_path / "run"


def test_everything_is_sent_to_wandb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for first in (1, 2):
        logger = LOGGERS.make({"name": "wandb", "project": "mine"}, folder, first)
        logger.scalars("train", {"loss": 0.5, "text": "x"}, first)
        logger.image("samples", torch.zeros(3, 4, 5, dtype=torch.uint8), first)
        logger.histograms("scores", {"fake": torch.tensor([1.0, torch.nan])}, first)
        logger.close()
    assert wandb.started[0]["id"] == wandb.started[1]["id"]
    assert wandb.started[0]["config"] == {"arm": "none", "seed": 3}
    assert wandb.started[0]["project"] == "mine"
    assert wandb.logged[:3] == [
        ({"train/loss": 0.5}, 1), ({"samples": (4, 5, 3)}, 1), ({"scores/fake": (1,)}, 1),
    ]  # fmt: skip
    assert wandb.ended == 2


def test_a_failure_of_wandb_ends_only_its_logging(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Recorder(fails=True))
    logger = LOGGERS.make("wandb", folder, 1)
    fill(logger, 1, 2)
    logger.close()
    out = capsys.readouterr().out
    assert out.count("no logging to Weights & Biases from now on (no network)") == 1


def test_wandb_that_is_not_installed_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(VkdError, match="needs pip install wandb"):
        LOGGERS.make("wandb", folder, 1)


def test_wandb_offline_keeps_the_run_in_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = LOGGERS.make("wandb", folder, 1)
    fill(logger, 1, 2)
    logger.image("samples", torch.zeros(1, 4, 4, dtype=torch.uint8), 2)
    logger.histograms("scores", {"fake": torch.rand(10)}, 2)
    logger.close()
    assert logger.open
    assert len(list((folder / "wandb").glob("offline-run-*/*.wandb"))) == 1
