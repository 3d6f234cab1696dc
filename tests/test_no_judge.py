"""Runs without a judge, and sample grids at growing intervals."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gan_vkd.evaluation.evaluator import Evaluator
from gan_vkd.evaluation.settings import EvaluateSettings
from gan_vkd.report.compare import compare
from gan_vkd.run import Run
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.task import Hook
from gan_vkd.training import train


def test_a_run_without_a_judge_exports_its_latest_generator(
    small: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small(
        "evaluate.features=null", "train.iterations=4", "train.sample_every=4",
        "train.sample_first=1", arm="none",
    )  # fmt: skip
    train(settings, tmp_path / "run")
    run = Run(tmp_path / "run")
    assert run.load_generator("cpu")[1]["iteration"] == 4
    assert not (run.path / "neighbours.png").exists()
    assert run.records("metrics")
    assert "best" not in capsys.readouterr().out
    assert sorted(p.name for p in (run.path / "samples").iterdir()) == [
        "00000001.png", "00000002.png", "00000004.png",
    ]  # fmt: skip
    text = compare([run.path], tmp_path / "table")
    last = [record for record in run.records("metrics") if "d_loss" in record][-1]
    assert text.startswith("no distances, since evaluate.features = null")
    assert [cell.strip() for cell in text.splitlines()[-1].split("|")[1:6]] == [
        "none", "0", "4 of 4", f"{last['d_loss']:.3f}", f"{last['g_loss']:.3f}",
    ]  # fmt: skip
    assert {file.name for file in (tmp_path / "table").iterdir()} == {
        "table.md", "table.csv", "samples.png",
    }  # fmt: skip
    run.append("metrics", {"iteration": 5, "seconds": 1, "d_loss": "x", "g_loss": 0})
    with pytest.raises(VkdError, match="not a file of this project: d_loss"):
        compare([run.path], tmp_path / "table")
    with pytest.raises(SettingsError, match=r"evaluate\.features = null: no judge"):
        Evaluator(settings.evaluate, settings.data, "cpu")


def test_further_judges_need_a_first_one() -> None:
    with pytest.raises(ValueError, match="also needs a first judge"):
        EvaluateSettings.model_validate({"features": None, "also": [{"name": "cifar_resnet20"}]})


def test_early_calls_double_until_the_period() -> None:
    hook = Hook(100, print, first=10)
    assert [now for now in range(1, 400) if hook.is_early(now)] == [10, 20, 40, 80]
    assert not any(Hook(100, print).is_early(now) for now in range(1, 400))
