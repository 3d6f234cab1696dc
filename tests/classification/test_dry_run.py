"""--dry-run of recognition: what a run would need, and nothing in its folder."""

from pathlib import Path

import pytest

from classification.epochs import dry_run as by_epochs
from classification.recognition.training import dry_run
from tests.classification.conftest import MakeStudent


def test_a_student_by_settings(
    tiny: MakeStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_epochs, "SECONDS", 0.01)
    needs = dry_run(tiny("train.epochs=4"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert set(needs.networks) == {"student", "distillation", "teachers (frozen)"}
    assert needs.total >= 4 * needs.iteration > 0
    assert needs.memory > needs.checkpoint > 0
    assert "4 epochs of" in needs.text
    assert "without evaluations" in needs.text
