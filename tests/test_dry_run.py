"""--dry-run with settings: what a run would need, and nothing in its folder."""

from pathlib import Path

import pytest
import torch

from gan_vkd.auto import estimate
from gan_vkd.auto.dry_run import dry_run
from gan_vkd.runtime.dry_run import Needs, duration, of_sweep, parameters
from gan_vkd.runtime.terminal import _said
from gan_vkd.training import Game, Run
from tests.conftest import MakeSettings


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "SECONDS", 0.0)


def test_a_gan_by_settings(small: MakeSettings, tmp_path: Path) -> None:
    settings = small()
    needs = dry_run(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    trainer = Game(settings, Run(tmp_path / "other"), "cpu").trainer
    assert trainer.distillation is not None
    counts = {
        "generator": trainer.generator,
        "discriminator": trainer.discriminator,
        "teacher (frozen)": trainer.distillation.teacher,
    }
    for name, network in counts.items():
        assert needs.networks[name] == sum(p.numel() for p in network.parameters())
    assert needs.total > needs.iteration > 0
    assert needs.memory > needs.checkpoint > 0
    assert str(tmp_path / "run") in needs.text


def test_a_sweep_adds_its_runs_up(capsys: pytest.CaptureFixture[str]) -> None:
    needs = Needs("words\nmore", {"g": 1}, 0.5, 100.0, 2**30, 2**20)
    of_sweep([("a", needs), ("b", needs)], 3)
    assert capsys.readouterr().out == (
        "a:\n  words\n  more\nb:\n  words\n  more\n2 arms x 3 seeds, one after the other: 10 min\n"
    )
    assert _said.facts.pop("total") == 600
    assert _said.facts.pop("arms")["a"]["networks"] == {"g": 1}


def test_networks_without_parameters_are_left_out() -> None:
    given = {"a": torch.nn.Linear(2, 3), "b": None, "c": torch.nn.Flatten()}
    assert parameters(given) == {"a": 9}


def test_durations_are_in_the_unit_that_fits() -> None:
    assert [duration(s) for s in (12, 240, 9000, 864_000)] == [
        "12 s",
        "4 min",
        "2.5 h",
        "10.0 days",
    ]
