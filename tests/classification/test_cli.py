"""The command line: a run, a sweep and its table, one-line errors."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from classification.cli import main
from classification.recognition.compare import compare
from classification.recognition.run import Run
from classification.recognition.training import train
from gan_vkd.runtime.errors import VkdError
from gan_vkd.sweep import local
from tests.classification.conftest import MakeStudent
from tests.processes import Forked, called, ranks_of
from tests.test_report import Parsed

ROOT = Path(__file__).resolve().parents[2]


def vkd_classify(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return called(main, *arguments)


@pytest.fixture
def written(tiny: MakeStudent, tmp_path: Path):
    def write(name: str, *overrides: str, arm: str) -> Path:
        file = tmp_path / f"{name}.yaml"
        file.write_text(tiny(*overrides, arm=arm).dump())
        return file

    return write


def test_a_run_from_training_to_export(written, tmp_path: Path) -> None:
    config, run = written("vkd", "train.epochs=1", arm="vkd"), tmp_path / "run"
    trained = vkd_classify("train", config, "--out", run)
    assert trained.returncode == 0, trained.stderr
    assert f"{run}: finished, " in trained.stdout
    again = vkd_classify("train", run, "--resume")
    assert "finished already (1 epochs)" in again.stdout
    measured = vkd_classify("evaluate", run, "data.heldout=test")
    top1 = Run(run).records("metrics")[-1]["top1"]
    assert f"top1: {top1}" in measured.stdout
    reported = vkd_classify("report", run, "--out", tmp_path / "report.html")
    assert (reported.returncode, reported.stderr) == (0, "")
    page = Parsed(tmp_path / "report.html")
    assert all(address.startswith("#") for address in page.addresses)
    for text in ("vkd, seed 0", "finished", f"{top1:.2f}", "label_loss", "images_per_second"):
        assert text in page.text, text
    exported = vkd_classify("export", run, tmp_path / "student.pth")
    assert exported.stdout.startswith(str(tmp_path / "student.pth"))

    # files are measured and shown as the run is
    digits = ("data.kind=memory", "data.source=digits", "data.num_images=100", "data.heldout=test")
    normal = [
        f"data.{key}={list(getattr(Run(run).settings().data, key))}" for key in ("mean", "std")
    ]
    named, whole = tmp_path / "student.pth", tmp_path / "student.safetensors"
    vkd_classify("export", run, whole)
    for file, given in ((whole, []), (named, ["student.options.num_heads=2", *normal])):
        of_file = vkd_classify("evaluate", file, *digits, *given)
        assert of_file.returncode == 0, of_file.stderr
        assert f"top1: {top1}" in of_file.stdout
    assert len(Run(run).records("evaluations")) == 1
    looked = vkd_classify(
        "features", run, whole, *digits, "--out", tmp_path / "figures", "--count", 3
    )
    assert (tmp_path / "figures" / "attention.png").exists(), looked.stderr
    other = vkd_classify("evaluate", named, "student.options.num_heads=2", "data.heldout=no/where")
    assert "data.heldout = no/where: no such folder" in other.stderr


def test_a_sweep_prints_a_table_and_skips_finished_runs(
    written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def start(job: Any, environment: dict[str, str]) -> Forked:
        started.append(job.command[:3])
        return Forked(job.command, job.log)

    monkeypatch.setattr(local, "start", start)
    configs = [written(arm, "train.epochs=1", arm=arm) for arm in ("plain", "vkd")]
    out = tmp_path / "out"
    first = vkd_classify("sweep", *configs, "--seeds", 0, 1, "objective.features.weight=2",
                         "--out", out)  # fmt: skip
    assert first.returncode == 0, first.stderr
    assert "less plain at the same seed" in first.stdout
    assert Run(out / "vkd_seed1").settings().objective.features.weight == 2
    assert Run(out / "plain_seed1").settings().objective.features is None
    assert (out / "curves.png").exists()
    assert "4/4 finished already" in vkd_classify("sweep", *configs, "--seeds", 0, 1,
        "objective.features.weight=2", "--out", out).stdout  # fmt: skip
    assert started == [[sys.executable, "-m", "classification"]] * 4


def test_a_time_limit_ends_a_run_with_a_checkpoint(written, tmp_path: Path) -> None:
    config = written("long", "train.epochs=5000", arm="plain")
    stopped = vkd_classify("train", config, "--out", tmp_path / "run", "--max-time", "2s")
    assert stopped.returncode == 124
    assert "out of time" in stopped.stderr
    assert Run(tmp_path / "run").checkpoints()


def test_two_ranks_train_and_agree(written, tmp_path: Path) -> None:
    config = written("vkd", "train.epochs=2", "student.name=resnet10t", "student.options={}",
                     "student.drop_path=0", arm="vkd")  # fmt: skip
    command = ["-m", "classification", "train", str(config), "--out", str(tmp_path / "run")]
    ranks = ranks_of(2, command, tmp_path)
    outputs = [rank.wait() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    last = Run(tmp_path / "run").records("metrics")[-1]
    assert last["images"] == 297  # every held-out image once
    assert "2 ranks" in outputs[0]
    assert Run(tmp_path / "run").checkpoints()


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["train", "nowhere.yaml"], "no such settings file"),
        (["train", "configs/cifar10_vit.yaml", "train.epoch=3"], "did you mean train.epochs"),
        (["evaluate", "nowhere"], "nowhere: not a run folder"),
        (["export", "nowhere", "x.pth"], "not a run folder"),
        (["compare", "nowhere", "--out", "nowhere"], "not a run folder"),
        (["features", "nowhere", "--out", "nowhere"], "not a run folder"),
    ],
)
def test_usage_errors_are_one_line(
    arguments: list[str],
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    ended = vkd_classify(*arguments)
    assert ended.returncode in (1, 2)
    (line,) = ended.stderr.splitlines()
    assert fault in line
    assert not (ROOT / "nowhere").exists()


def test_two_runs_of_one_arm_and_seed_are_not_compared(tiny: MakeStudent, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(tiny("train.epochs=1", arm="plain"), tmp_path / name)
    with pytest.raises(VkdError, match="two runs of arm plain at seed 0"):
        compare([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
