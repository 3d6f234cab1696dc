"""Warnings of too few pictures in a run: printed once and recorded."""

from pathlib import Path

import pytest

from gan_vkd.evaluation.few import WARNINGS
from gan_vkd.run import Run
from gan_vkd.training import train
from tests.conftest import MakeSettings


def test_a_run_on_few_images_says_so_once_and_records_it(
    small: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = small("data.num_images=40", "evaluate.every=3", "evaluate.metrics=[]", arm="none")
    train(settings, tmp_path)
    said = capsys.readouterr().out
    assert said.count(WARNINGS["few pictures"]) == 1
    assert said.index(WARNINGS["few pictures"]) < said.index("iteration 3: ")
    found = [r for r in Run(tmp_path).records("metrics") if "judges" in r]
    assert [r["warnings"] for r in found] == [["few pictures"]] * 2
    assert {r["training_images"] for r in found} == {40}
    assert f", last {found[-1]['judges'][0]['frechet']:.3f}" in said.splitlines()[-1]


def test_a_run_on_enough_images_is_silent(
    small: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(small("train.iterations=2", "evaluate.every=2", arm="none"), tmp_path)
    assert "few pictures" not in capsys.readouterr().out
    assert Run(tmp_path).records("metrics")[-1]["warnings"] == []
