"""Third-party components of every kind, loaded through the entry point."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gan_vkd.runtime.checkpoint import load_state
from gan_vkd.runtime.folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
OWN = Path(__file__).parent / "plugin"


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Returns an environment in which the package of tests/plugin is installed."""
    site = tmp_path / "site"
    info = site / "own_components-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(OWN / "own_components.py", site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-components\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gan_vkd.components]\nown = own_components\n")
    return os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}


CALLS = (
    "import json, sys\nfrom gan_vkd.cli import main\nfrom tests.processes import called\n"
    "ended = [called(main, *words) for words in json.loads(sys.argv[1])]\n"
    "print(json.dumps([(e.returncode, e.stderr) for e in ended]))\n"
)


def vkd(environment: dict[str, str], *commands: list[str]) -> list[tuple[int, str]]:
    """Exit codes and errors of commands, all in one new process."""
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(commands)],
        stdout=subprocess.PIPE, text=True, env=environment, timeout=300, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


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
