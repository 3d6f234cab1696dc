"""Detection runs: every arm, resuming bit for bit, settings that do not fit the data."""

from pathlib import Path
from typing import Any

import pytest

from classification.detection.learner import Learner
from classification.detection.run import Run, read_detector
from classification.detection.training import train
from gan_vkd.runtime.errors import SettingsError, VkdError
from tests.classification.detection.conftest import MakeDetection, write_coco
from tests.states import assert_identical

ARMS = ["plain", "vkd", "token_matching"]


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_and_writes_its_detector(
    arm: str, tiny_detection: MakeDetection, tmp_path: Path
) -> None:
    settings = tiny_detection("train.epochs=1", arm=arm)
    train(settings, tmp_path / "run")
    records = Run(tmp_path / "run").records("metrics")
    assert len([r for r in records if "class_loss" in r]) == 3
    terms = {"plain": set(), "vkd": {"patch_loss", "body_loss", "neck_loss"},
             "token_matching": {"token_loss"}}[arm]  # fmt: skip
    assert {key for key in records[0] if key.endswith("_loss")} == terms | {
        "class_loss", "box_loss", "giou_loss",
    }  # fmt: skip
    assert "AP50" in records[-1]
    _, facts = read_detector(tmp_path / "run")
    assert facts["categories"] == {"1": "red", "3": "blue"}
    assert facts["classes"] == 4


def test_a_resumed_run_is_bit_identical(tiny_detection: MakeDetection, tmp_path: Path) -> None:
    settings = tiny_detection("train.accumulate=1", "seed=3")
    train(settings, tmp_path / "whole")
    step = Learner.step

    def dying(self: Learner, batch: Any, now: int) -> Any:
        if now == 3:
            raise ZeroDivisionError
        return step(self, batch, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", dying)
        with pytest.raises(ZeroDivisionError):
            train(settings, tmp_path / "stopped")
    train(settings, tmp_path / "stopped", resume=True)
    assert_identical(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_without_a_heldout_set_writes_its_detector(
    tiny_detection: MakeDetection, tmp_path: Path
) -> None:
    train(tiny_detection("data.heldout=null", "train.epochs=1", arm="plain"), tmp_path / "run")
    assert read_detector(tmp_path / "run")[1]["classes"] == 4
    root = write_coco(tmp_path / "empty", lambda tree: tree.update(annotations=[]))
    with pytest.raises(SettingsError, match="AP needs annotated objects"):
        train(tiny_detection(f"data.root={root}", arm="plain"), tmp_path / "other")


def test_settings_that_do_not_fit_the_data_are_a_one_line_error(
    tiny_detection: MakeDetection, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"data.classes = 3: the largest category is 3"):
        train(tiny_detection("data.classes=3", arm="plain"), tmp_path / "a")
    with pytest.raises(SettingsError, match=r"train.batch_size: 50 images"):
        train(tiny_detection("train.batch_size=50", arm="plain"), tmp_path / "b")
    with pytest.raises(SettingsError, match=r"distill: token matching needs equal widths"):
        train(tiny_detection("student.width=48", arm="token_matching"), tmp_path / "c")
    with pytest.raises(VkdError, match=r"not finite .*a smaller train.lr"):
        train(tiny_detection("train.lr=1e4", arm="plain"), tmp_path / "d")


def test_a_run_resumes_after_its_images_have_moved(
    tiny_detection: MakeDetection, tmp_path: Path
) -> None:
    train(tiny_detection("train.epochs=1", arm="plain"), tmp_path / "run")
    moved = write_coco(tmp_path / "moved")
    train(
        tiny_detection("train.epochs=1", f"data.root={moved}", arm="plain"), tmp_path / "run", True
    )
    assert len(Run(tmp_path / "run").records("metrics")) == 4
