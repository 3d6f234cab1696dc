"""The search for the recipe: it keeps the better half by mean rank, and the undistilled run."""

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import search
from gan_vkd.game.settings import load_settings

NAMES = list(search.cells())[:6]


def test_the_settings_of_every_cell_load(tmp_path: Path) -> None:
    for name, path in search._write(tmp_path, list(search.cells())).items():
        settings = load_settings(path)
        assert settings.arm == name
        assert (settings.distill is None) == (name == "none")


def test_the_mean_rank_is_taken_over_judges() -> None:
    distances = [{"a": 1.0, "b": 300.0}, {"a": 2.0, "b": 100.0}, {"a": 3.0, "b": 200.0}]
    assert search._mean_ranks(distances) == [2.0, 1.5, 2.5]


def test_the_better_half_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[int, list[str]]] = []
    quality = {name: float(place) for place, name in enumerate(["none", *NAMES])}

    def train(configs: list[Path], length: int, asked: Any) -> None:
        trained.append((length, [config.stem for config in configs]))

    def distances(run: Path) -> dict[str, float]:
        return {"FD(judge)": quality[run.name.removesuffix("_seed100")]}

    monkeypatch.setattr(search, "_train", train)
    monkeypatch.setattr(search, "_distances", distances)
    quality["none"] = 99.0  # the worst, but kept as the baseline
    arguments = ["--out", str(tmp_path), "--lengths", "10,20,40", "--cells", ",".join(NAMES)]
    monkeypatch.setattr(sys, "argv", ["search.py", *arguments, "train.batch_size=10"])
    search.main()
    assert trained == [
        (10, ["none", *NAMES]),
        (20, ["none", *NAMES[:3]]),
        (40, ["none", *NAMES[:2]]),
    ]
    assert (tmp_path / "search.md").read_text().count("| iterations") == 3


def test_the_mean_rank_of_a_level_is_taken_over_its_cells() -> None:
    ranks = {"none": 1.0, "phi_s_head_one_fixed": 2.0, "whitening16_head_third_fixed": 4.0}
    levels = {(row["factor"], row["level"]): row for row in search._levels(ranks)}
    assert levels["target", "phi_s"]["mean rank"] == "2.0"
    assert levels["student", "head"] == {
        "factor": "student", "level": "head", "cells": "2", "mean rank": "3.0"
    }  # fmt: skip
    assert levels["ratio", "third"]["mean rank"] == "4.0"
    assert len(levels) == 6  # levels without cells are left out


def test_an_unknown_cell_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["search.py", "--out", str(tmp_path), "--cells", "much"])
    with pytest.raises(SystemExit):
        search.main()
    assert "no such cell: much" in capsys.readouterr().err
