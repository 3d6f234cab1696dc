"""Runs of recognition: every arm, resuming bit for bit, non-finite values, invalid settings."""

from pathlib import Path
from typing import Any

import pytest

from classification.recognition.data.images import load_heldout_images, load_training_images
from classification.recognition.evaluation import measure
from classification.recognition.learner import Learner
from classification.recognition.run import Run, read_student
from classification.recognition.training import train
from gan_vkd.runtime.errors import SettingsError, VkdError
from tests.classification.conftest import MakeStudent
from tests.states import assert_identical

ARMS = ["plain", "hard", "soft", "cit", "dearkd", "vkd", "vkd_linear", "vkd_mlp", "vkd_whitening",
        "vkd_standardize", "vkd_none", "vkd_hard"]  # fmt: skip


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_and_writes_its_student(
    arm: str, tiny: MakeStudent, tmp_path: Path
) -> None:
    settings = tiny("train.epochs=1", "train.batch_size=50", arm=arm)
    train(settings, tmp_path / "run")
    records = Run(tmp_path / "run").records("metrics")
    assert [r["epoch"] for r in records if "label_loss" in r] == [0.5, 1.0]
    assert [r["epoch"] for r in records if "top1" in r] == [1.0]
    student, facts = read_student(tmp_path / "run")
    assert facts["tokens"] == {"plain": 0, "cit": 2}.get(arm, 1)
    heldout = load_heldout_images(settings.data, facts["classes"])
    assert heldout is not None
    assert measure(student, settings, heldout, "cpu")["top1"] == records[-1]["top1"]


def test_a_resumed_run_is_bit_identical(tiny: MakeStudent, tmp_path: Path) -> None:
    rich = [
        "train.accumulate=2", "augment.mixup=0.8", "augment.cutmix=1.0", "augment.erasing=0.25",
        "augment.repeats=3", "train.ema_decay=0.9", "train.clip_norm=1.0", "seed=3",
    ]  # fmt: skip
    whole = tiny(*rich, "train.checkpoint_every=1000", arm="vkd_whitening")
    train(whole, tmp_path / "whole")
    stopping = tiny(*rich, "train.checkpoint_every=7", arm="vkd_whitening")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", _dies_at(9))
        with pytest.raises(ZeroDivisionError):
            train(stopping, tmp_path / "stopped")
    assert int(Run(tmp_path / "stopped").checkpoints()[-1].stem) < 9
    train(stopping, tmp_path / "stopped", resume=True)
    assert_identical(tmp_path / "whole", tmp_path / "stopped")


def _dies_at(number: int) -> Any:
    step = Learner.step

    def dying(self: Learner, batch: Any, now: int) -> Any:
        if now == number:
            raise ZeroDivisionError
        return step(self, batch, now)

    return dying


def test_a_run_may_be_resumed_with_more_accumulation(tiny: MakeStudent, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", _dies_at(7))
        with pytest.raises(ZeroDivisionError):
            train(tiny("train.checkpoint_every=5"), tmp_path / "run")
    train(tiny("train.checkpoint_every=5", "train.accumulate=2"), tmp_path / "run", resume=True)
    assert Run(tmp_path / "run").records("metrics")[-1]["epoch"] == 3


def test_a_non_finite_gradient_is_reported_before_a_checkpoint_is_written(
    tiny: MakeStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Learner.losses

    def with_infinite_gradient(self: Learner, part: Any, number: int) -> Any:
        logged = losses(self, part, number)
        if number == 5:  # a finite value with a non-finite derivative
            logged["label_loss"] = logged["label_loss"] + (logged["label_loss"] * 0).sqrt()
        return logged

    monkeypatch.setattr(Learner, "losses", with_infinite_gradient)
    with pytest.raises(VkdError, match="gradient_norm is not finite at iteration 6") as caught:
        train(tiny("train.checkpoint_every=3"), tmp_path / "run")
    assert "the last good checkpoint" in str(caught.value)
    assert Run(tmp_path / "run").checkpoints()[-1].stem <= "00000005"


def test_dearkd_drops_its_teacher_in_the_second_stage(tiny: MakeStudent, tmp_path: Path) -> None:
    train(tiny("train.epochs=5", arm="dearkd"), tmp_path / "run")
    records = [r for r in Run(tmp_path / "run").records("metrics") if "label_loss" in r]
    assert ["early_loss" in record for record in records] == [True] * 20 + [False] * 5


def test_non_finite_losses_are_an_error_with_a_remedy(tiny: MakeStudent, tmp_path: Path) -> None:
    with pytest.raises(VkdError, match=r"not finite at iteration \d+.*a smaller") as caught:
        train(tiny("train.lr=1e4", "train.warmup_epochs=0"), tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("arm", "overrides", "fault"),
    [
        (
            "vkd",
            ["teachers.resnet56={name: cifar_resnet57}"],
            "did you mean cifar_resnet56?",
        ),
        ("vkd", ["teachers.resnet56.layer=layer9"], "has no layer 'layer9'"),
        ("vkd", ["data.resolution=64"], "data.resolution = 64: does not fit the student"),
        ("vkd", ["train.batch_size=200"], "more than an epoch of the 100 images has"),
        ("vkd", ["augment.mixup=0.8", "train.batch_size=25"], "needs an even number"),
        (
            "vkd",
            ["augment.repeats=3", "data.num_images=300", "train.batch_size=290"],
            "more than an epoch of the 300",
        ),
        ("dearkd", ["objective.early.student=blocks.9"], "no layer 'blocks.9'"),
        ("dearkd", ["objective.early.teacher.layer=linear"], "layer linear is no map"),
        ("vkd", ["objective.features.method.projection=identity"], "objective:"),
        ("vkd", ["train.accumulate=3"], "cannot share it evenly"),
        ("vkd", ["objective.features={method: spkd}", "train.accumulate=2"], "relates the samples"),
    ],
)
def test_settings_that_do_not_fit_are_a_one_line_error_before_the_run_starts(
    arm: str, overrides: list[str], fault: str, tiny: MakeStudent, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=fault) as caught:
        train(tiny(*overrides, arm=arm), tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "run" / "settings.yaml").exists()


def test_a_teacher_with_other_classes_is_refused(
    tiny: MakeStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "images"
    settings = tiny()
    images = load_training_images(settings.data)
    for i in range(20):
        folder = source / f"{int(images.labels[i]) % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        images.image(i).save(folder / f"{i}.png")
    with pytest.raises(SettingsError, match="predicts 10 classes, but the images have 3"):
        train(
            tiny(f"data.source={source}", "data.num_images=null", "data.heldout=null"),
            tmp_path / "run",
        )
