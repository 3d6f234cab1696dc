"""The scripts as a user calls them, at the smallest size."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "model.ch=2", "model.z_dim=8", "train.iterations=2", "train.d_steps=1", "train.batch_size=8",
    "evaluate.every=1", "evaluate.num_samples=20", "data.num_images=100", "device=cpu",
]  # fmt: skip


def bash(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / script), *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        env=os.environ | {"VIRTUAL_ENV": sys.prefix},
        check=False,
    )


@pytest.fixture
def judged(classifier: Path) -> list[str]:
    return [
        f"evaluate.features.weights={classifier}",
        f"distill.teacher.weights={classifier}",
        "distill.teacher.name=classifier",
        "evaluate.features.name=classifier",
    ]


def test_three_arms_to_the_table_and_finished_ones_are_skipped(
    judged: list[str], tmp_path: Path
) -> None:
    call = ["quickstart", f"out={tmp_path}", *SMALL, *judged]
    first = bash("arms.sh", *call)
    assert first.returncode == 0, first.stderr
    with open(tmp_path / "table.csv") as file:
        assert [row["arm"] for row in csv.DictReader(file)] == ["none", "layernorm", "whitening"]
    assert (tmp_path / "samples.png").is_file()
    assert str(tmp_path / "quickstart_whitening_seed0") in first.stdout

    again = bash("arms.sh", *call, "arms=none,whitening", "seeds=0,1")
    assert again.returncode == 0, again.stderr
    assert "2/4 finished already" in again.stdout
    with open(tmp_path / "table.csv") as file:
        rows = [(row["arm"], row["seed"]) for row in csv.DictReader(file)]
    assert rows == [("none", "0"), ("whitening", "0"), ("none", "1"), ("whitening", "1")]


@pytest.mark.parametrize(
    ("script", "key"), [("cifar10_ablation.sh", "modle.ch"), ("cifar10_vit.sh", "studnet.name")]
)
def test_a_table_is_a_sweep_that_takes_options_and_settings(
    script: str, key: str, tmp_path: Path
) -> None:
    answer = bash(script, f"out={tmp_path / 'out'}", "seeds=0", "jobs=2", f"{key}=2")
    assert answer.returncode == 2
    assert f"{key.partition('.')[0]}: unknown key; did you mean" in answer.stderr
    assert not (tmp_path / "out").exists()
    answer = bash(script, "--jobs", "2")
    assert answer.returncode == 2
    assert answer.stderr.splitlines() == [f"{ROOT}/scripts/{script}: --jobs: expected key=value"]


@pytest.mark.parametrize(
    ("script", "arms", "runs"),
    [("cifar10_10pct.sh", [], 3), ("cifar100_10pct.sh", ["arms=none"], 1)],
)
def test_a_published_experiment_finds_its_configs_and_stops_at_what_is_missing(
    script: str, arms: list[str], runs: int, tmp_path: Path
) -> None:
    missing = [f"data.root={tmp_path}", "data.download=false"]
    answer = bash(script, f"out={tmp_path}", *arms, *missing)
    assert answer.returncode == 1
    assert answer.stdout.count(f"is not in {tmp_path}") == runs
    assert f"{runs} run" in answer.stderr
    answer = bash(script, "variant=gpu", f"out={tmp_path}")
    assert answer.returncode == 2
    assert "no such settings file" in answer.stderr
    answer = bash(script, "nonsense")
    assert answer.returncode == 2
    assert "expected key=value" in answer.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "requirement"),
    [
        ("arms.sh", ["quickstart"], "."),
        ("quickstart.sh", ["seeds=1"], "."),
        ("cifar10_10pct.sh", ["variant=cpu"], "."),
        ("test.sh", ["-k", "nothing"], ".[test]"),
    ],
)
@pytest.mark.parametrize("foreign", [False, True])
def test_a_fresh_checkout_installs_itself_whatever_the_arguments(
    script: str, arguments: list[str], requirement: str, foreign: bool, tmp_path: Path
) -> None:
    """With a stand-in for the environment's Python that writes down what it was asked.

    Also where an environment with another checkout in it is active.
    """
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copytree(ROOT / "gan_vkd", tmp_path / "gan_vkd")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "vkd", "ruff"):
        command = tmp_path / ".venv" / "bin" / name
        command.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/asked\n')
        command.chmod(0o755)
    outside = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    if foreign:
        outside |= {"VIRTUAL_ENV": sys.prefix, "PATH": f"{sys.prefix}/bin:{outside['PATH']}"}
    subprocess.run(
        ["bash", str(tmp_path / "scripts" / script), *arguments],
        capture_output=True, cwd="/", env=outside, check=False,
    )  # fmt: skip
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0] == "python -m pip --version"
    assert asked[1].split()[-2:] == ["-e", requirement]
    assert asked[2].split()[0] in ("vkd", "ruff")
