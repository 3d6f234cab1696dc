"""Third-party components of every kind, loaded through the entry point."""

import json
import os
from pathlib import Path

import pytest

from gan_vkd.runtime.checkpoint import load_state
from gan_vkd.runtime.folder import RunFolder
from tests.plugins import ROOT, install, vkd

OWN = Path(__file__).parent / "plugin"


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Returns an environment in which the package of tests/plugin is installed."""
    return install(tmp_path / "site", (OWN / "own_components.py").read_text())


def test_one_component_of_every_kind_trains_and_its_options_are_checked(
    installed: dict[str, str], tmp_path: Path
) -> None:
    run, everything = tmp_path / "run", str(OWN / "all.yaml")
    trained, drawn, refused = vkd(
        installed,
        ["train", everything, "--out", str(run)],
        ["sample", str(run), "--out", str(tmp_path / "grid.png")],
        ["train", everything, "distill.method.normalization.factor=-1"],
    )
    assert trained[0] == 0, trained
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "distill_loss" in record]
    assert [record["iteration"] for record in steps] == [1, 2, 3]
    assert all(record["gradient_ratio"] == pytest.approx(1) for record in steps)
    (evaluation,) = [record for record in records if "own_mean" in str(record)]
    assert "recall" in str(evaluation)
    assert "density" not in str(evaluation)
    assert "1 train ['d_loss'" in (run / "own_log.txt").read_text()
    state = load_state(RunFolder(run).checkpoints()[-1])["trained"]
    assert state["augment"]["parts.0.seen"] == 3 * 2 * 4
    assert drawn[0] == 0, drawn
    assert refused[0] == 2
    assert "distill.method.normalization.factor = -1: input should be greater" in refused[1]


def test_names_of_a_missing_package_are_unknown() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ((code, errors),) = vkd(environment, ["train", str(OWN / "all.yaml")])
    assert code == 2
    assert "model = 'own_network': no network of that name; known: biggan" in errors
