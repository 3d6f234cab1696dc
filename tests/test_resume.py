"""A resumed run has the settings, the data and the records of the run that was stopped."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_vkd.game.settings import Settings
from gan_vkd.run import Run
from gan_vkd.runtime import precision
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.stopping import Stopped
from gan_vkd.training import train
from tests.conftest import MakeSettings
from tests.resuming import assert_resumes_identically, stop_in
from tests.states import assert_identical


def pictures(folder: Path, count: int, classes: int = 2) -> Path:
    """A folder of random pictures with a folder for each class."""
    for index in range(count):
        file = folder / f"class{index % classes}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(file)
    return folder


def on_pictures(small: MakeSettings, data: Path, *overrides: str) -> Settings:
    return small(
        f"data.source={data}", "data.num_images=null", "data.heldout=null",
        "evaluate.reference=train", "evaluate.num_samples=8", "evaluate.every=100",
        "train.iterations=2", *overrides, arm="none",
    )  # fmt: skip


def refusal(settings: Settings, run: Path, resume: bool = True) -> str:
    with pytest.raises(SettingsError) as caught:
        train(settings, run, resume=resume)
    message = str(caught.value)
    assert message.startswith(f"{run}: ")
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("classes", [2, 3])
def test_changed_data_is_noticed(
    classes: int, small: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = pictures(tmp_path / "data", 8), tmp_path / "run"
    train(on_pictures(small, data), run)
    longer = on_pictures(small, data, "train.iterations=4")
    moved = shutil.move(data, tmp_path / "moved")
    pictures(data, 20, classes)
    message = refusal(longer, run)
    assert f"then 8 images, 2 classes, now 20 images, {classes} classes" in message
    assert "train.changed_data=accept" in message
    accepting = on_pictures(small, data, "train.iterations=4", "train.changed_data=accept")
    if classes == 2:
        train(accepting, run, resume=True)
    else:  # the networks are of other classes
        with pytest.raises(VkdError, match="shape"):
            train(accepting, run, resume=True)
    shutil.rmtree(data)
    shutil.move(moved, data)
    capsys.readouterr()
    if classes == 3:
        train(longer, run, resume=True)
        assert "from iteration 2 of 4" in capsys.readouterr().out


def test_settings_of_the_checkpoint_count_where_the_file_is_gone(
    small: MakeSettings, tmp_path: Path
) -> None:
    data, run = pictures(tmp_path / "data", 8), tmp_path / "run"
    train(on_pictures(small, data), run)
    (run / "settings.yaml").unlink()
    other = on_pictures(small, data, "train.iterations=4", "train.g_lr=0.1")
    assert "train.g_lr: 0.0005 -> 0.1" in refusal(other, run)
    assert "holds a run already" in refusal(other, run, resume=False)
    train(on_pictures(small, data, "train.iterations=4"), run, resume=True)
    assert Run(run).settings().train.iterations == 4


def test_a_checkpoint_of_another_run_is_refused(small: MakeSettings, tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", 8)
    train(on_pictures(small, data), tmp_path / "one")
    train(on_pictures(small, data, "seed=1"), tmp_path / "two")
    shutil.rmtree(tmp_path / "one" / "checkpoints")
    shutil.copytree(tmp_path / "two" / "checkpoints", tmp_path / "one" / "checkpoints")
    longer = on_pictures(small, data, "train.iterations=4")
    assert "with other settings: seed: 1 -> 0" in refusal(longer, tmp_path / "one")


def test_records_have_the_same_means_as_without_a_stop(small: MakeSettings, tmp_path: Path) -> None:
    settings = small("train.log_every=6", "train.checkpoint_every=2")
    assert_resumes_identically(settings, tmp_path)


def test_a_resumed_run_keeps_the_precision_that_auto_chose(
    small: MakeSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where a new measurement would choose the other one."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda kind: True)
    monkeypatch.setattr(precision, "_supports", lambda kind, name: True)
    monkeypatch.setattr(precision, "_bfloat16_is_faster", lambda channels: True)
    settings = small("train.precision=auto")
    train(small("train.precision=bfloat16"), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_in(patch, 2, signal.SIGTERM)
        with pytest.raises(Stopped):
            train(settings, tmp_path / "stopped")
    monkeypatch.setattr(precision, "_bfloat16_is_faster", lambda channels: False)
    train(settings, tmp_path / "stopped", resume=True)
    assert capsys.readouterr().out.count("cpu, bfloat16, arm") == 3
    assert_identical(tmp_path / "whole", tmp_path / "stopped")
    train(settings, tmp_path / "other")
    assert "cpu, float32, arm" in capsys.readouterr().out


def test_files_of_other_names_beside_checkpoints_are_left_alone(
    small: MakeSettings, tmp_path: Path
) -> None:
    data, run = pictures(tmp_path / "data", 8), tmp_path / "run"
    train(on_pictures(small, data), run)
    kept = run / "checkpoints" / "00000002 (copy).safetensors"
    shutil.copy(run / "checkpoints" / "00000002.safetensors", kept)
    train(on_pictures(small, data, "train.iterations=6"), run, resume=True)
    assert kept.exists()
    assert [file.name for file in Run(run).checkpoints()] == [
        "00000002.safetensors", "00000004.safetensors", "00000006.safetensors"
    ]  # fmt: skip


def test_checkpoints_that_cannot_be_read_end_the_run(small: MakeSettings, tmp_path: Path) -> None:
    data, run = pictures(tmp_path / "data", 8), tmp_path / "run"
    train(on_pictures(small, data), run)
    records = (run / "metrics.jsonl").read_text()
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("")
    longer = on_pictures(small, data, "train.iterations=4")
    with pytest.raises(VkdError, match="checkpoints: cannot be read"):
        train(longer, run, resume=True)
    assert (run / "metrics.jsonl").read_text() == records


@pytest.mark.parametrize("name", [".lock", "samples", "scores", "checkpoints", "tensorboard"])
def test_nothing_is_written_through_a_link_in_a_run_folder(
    name: str, small: MakeSettings, tmp_path: Path
) -> None:
    data, run = pictures(tmp_path / "data", 8), tmp_path / "run"
    settings = on_pictures(small, data, "evaluate.every=2", "train.sample_every=2")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("precious")
    run.mkdir()
    (run / name).symlink_to(outside / "precious" if name == ".lock" else outside)
    with pytest.raises(VkdError, match=f"{name}: .*link"):
        train(settings, run)
    assert [file.name for file in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "precious"
