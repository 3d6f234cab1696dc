"""The scripts with the smallest settings."""

import csv
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gan_vkd.distill import NORMALIZATIONS, PROJECTIONS
from gan_vkd.game.settings import load_settings
from gan_vkd.report.pictures import save_png
from gan_vkd.runtime.settings_names import short_name
from tests.test_reproduction import ARMS

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "model.ch=2", "model.z_dim=8", "train.iterations=2", "train.d_steps=1", "train.batch_size=8",
    "evaluate.every=1", "evaluate.num_samples=20", "data.num_images=100", "device=cpu",
]  # fmt: skip


def bash(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / script), *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        env=os.environ | {"VIRTUAL_ENV": sys.prefix} | environment,
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


def test_the_quickstart_prints_a_table_and_skips_finished_runs(
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
    ("script", "key"),
    [
        ("cifar10_ablation.sh", "modle.ch"),
        ("cifar10_recipe.sh", "modle.ch"),
        ("cifar10_vit.sh", "studnet.name"),
    ],
)
def test_scripts_pass_options_and_settings_to_a_sweep(
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
def test_published_experiments_find_their_configs_and_report_missing_data(
    script: str, arms: list[str], runs: int, tmp_path: Path
) -> None:
    missing = [f"data.root={tmp_path}", "data.download=false"]
    answer = bash(script, f"out={tmp_path}", *arms, *missing)
    assert answer.returncode == 1
    failed = [line for line in answer.stdout.splitlines() if ": failed (" in line]
    assert len(failed) == runs
    assert all(f"is not in {tmp_path}" in line for line in failed)
    assert f"{runs} run" in answer.stderr
    answer = bash(script, "variant=gpu", f"out={tmp_path}")
    assert answer.returncode == 2
    assert "no such settings file" in answer.stderr
    answer = bash(script, "nonsense")
    assert answer.returncode == 2
    assert "expected key=value" in answer.stderr


@pytest.fixture
def fake_vkd(tmp_path: Path) -> dict[str, str]:
    """Returns an environment whose `vkd` logs its arguments, writes records of 0.2 s per iteration
    for the trial, and a table for each sweep."""
    asked, folder = tmp_path / "asked", tmp_path / "bin"
    folder.mkdir()
    (folder / "vkd").write_text(f"""#!{sys.executable}
import json, pathlib, shlex, sys
open({str(asked)!r}, "a").write(shlex.join(sys.argv[1:]) + "\\n")
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
run = out / (pathlib.Path(sys.argv[2]).stem + "_seed0")
run.mkdir(parents=True, exist_ok=True)
(run / "settings.yaml").write_text("arm: x\\ndata: {{source: digits}}\\n")
records = [{{"iteration": i, "seconds": i / 5}} for i in (100, 200)]
(run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\\n" for r in records))
(out / "table.md").write_text("table\\n")
""")
    (folder / "vkd").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def swept(asked: str) -> list[Path]:
    """Returns the settings files of a sweep's command line."""
    command = shlex.split(asked)
    assert command[0] == "sweep"
    return [Path(item) for item in command[1 : command.index("--seeds")]]


def test_the_ablation_has_every_projection_and_every_normalisation(
    fake_vkd: dict[str, str], tmp_path: Path
) -> None:
    """Each with the default of the other; arms are named after both."""
    answer = bash("cifar10_ablation.sh", f"out={tmp_path / 'out'}", **fake_vkd)
    assert answer.returncode == 0, answer.stderr
    configs = swept((tmp_path / "asked").read_text())
    assert len({short_name(config) for config in configs}) == len(configs) == 17
    base = load_settings(Path("cifar10_ablation"))
    choices = set()
    for settings in map(load_settings, configs):
        assert settings.model_copy(update={"arm": base.arm, "distill": base.distill}) == base
        if settings.distill is None:
            assert settings.arm == "none"
        else:
            method = settings.distill.method.chosen
            projection, whitened = method["projection"]["name"], method["normalization"]
            kind = whitened.get("kind", "zca")
            named = whitened["name"] if kind == "zca" else f"{whitened['name']}_{kind}"
            assert settings.arm == f"{projection}, {named}"
            choices.add((projection, named))
    assert choices == {
        *((projection, "whitening") for projection in PROJECTIONS),
        *(("orthogonal", normalization) for normalization in NORMALIZATIONS),
        ("orthogonal", "whitening_pca"),
        ("orthogonal", "whitening_cholesky"),
    }


def test_the_reproduction_fits_all_runs_into_the_minutes(
    fake_vkd: dict[str, str], tmp_path: Path
) -> None:
    out, script = tmp_path / "out", "cifar10_reproduction.sh"
    call = [f"out={out}", "seeds=0,1", "jobs=3", "seed_of=nothing"]
    answer = bash(script, "minutes=120", *call, **fake_vkd)
    assert answer.returncode == 0, answer.stderr
    trial, sweep = (tmp_path / "asked").read_text().splitlines()
    assert "+arm=head_trained_cholesky_kept --seeds 0,1,2 --jobs 3" in trial
    assert trial.endswith("train.iterations=200 train.log_every=100")
    # 18 arms at two seeds, three in parallel: 12 rounds of ten minutes, minus the trial
    count = int((out / "iterations").read_text())
    assert 2800 <= count <= 2850  # with a reserve of 5%, at 0.2 s per iteration
    assert {load_settings(config).arm: config for config in swept(sweep)} == ARMS
    assert sweep.endswith(f"seed_of=nothing train.iterations={count}")
    line = f"Every run: {count} iterations, 2.3% of the published 125,000."
    assert line in answer.stdout
    assert (out / "table.md").read_text() == f"table\n\n{line}\n"

    again = bash(script, "minutes=999", *call, **fake_vkd)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "asked").read_text().splitlines()[2:] == [sweep]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ([], "minutes=: expected whole minutes for all runs together"),
        (["minutes=2h"], "minutes=2h: expected whole minutes for all runs together"),
        (["minutes=9", "jobs=0"], "jobs=0: expected the number of runs at once"),
        (["minutes=9", "variant=gpu"], "variant=gpu: expected cpu, or none"),
        (["minutes=9", "train.iterations=7"], "train.iterations: follows from minutes"),
    ],
)
def test_the_reproduction_refuses_invalid_arguments_in_one_line(
    arguments: list[str], fault: str, tmp_path: Path
) -> None:
    answer = bash("cifar10_reproduction.sh", f"out={tmp_path / 'out'}", *arguments)
    assert answer.returncode == 2
    assert answer.stderr.splitlines() == [f"{ROOT}/scripts/cifar10_reproduction.sh: {fault}"]
    assert not (tmp_path / "out").exists()


def test_the_reproduction_refuses_too_few_minutes(fake_vkd: dict[str, str], tmp_path: Path) -> None:
    call = ["cifar10_reproduction.sh", f"out={tmp_path / 'out'}", "minutes=1", "seeds=" + "0," * 99]
    answer = bash(*call, **fake_vkd)
    assert answer.returncode == 1
    assert answer.stderr.rstrip().endswith("set more minutes")
    assert len((tmp_path / "asked").read_text().splitlines()) == 1
    assert not (tmp_path / "out" / "iterations").exists()


def test_the_reproduction_names_missing_weights(tmp_path: Path) -> None:
    missing, data = tmp_path / "clip.bin", tmp_path / "data"
    for index, name in enumerate(["cat/a.png", "dog/b.png"]):
        save_png(torch.full((3, 32, 32), index, dtype=torch.uint8), data / name)
    answer = bash(
        "cifar10_reproduction.sh", "minutes=9", f"out={tmp_path / 'out'}", f"data.source={data}",
        "data.heldout=null", "data.fraction=null", f"distill.teacher.weights={missing}",
    )  # fmt: skip
    assert answer.returncode == 1
    assert f"vkd: {missing}: no such file (weights of timm/vit_base_patch32_clip" in answer.stdout
    assert "trial: 1 runs failed, see above" in answer.stderr


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
def test_scripts_install_the_checkout_first(
    script: str, arguments: list[str], requirement: str, foreign: bool, tmp_path: Path
) -> None:
    """With a stand-in for the environment's Python that logs its arguments.

    Also if an environment with another checkout is active.
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
