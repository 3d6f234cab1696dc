"""Learning rates by layer, and layers that are not trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classification.recognition.learner import Learner
from classification.recognition.training import train
from gan_vkd.runtime.errors import SettingsError
from tests.classification.conftest import MakeStudent, learner_of
from tests.classification.test_training import _dies_at
from tests.states import assert_identical

CNN = ["student.name=resnet10t", "student.options={}"]


def rates(learner: Learner) -> dict[str, float]:
    """The present learning rate of each parameter that is trained."""
    names = {id(p): name for name, p in learner.student.network.named_parameters()}
    groups = learner.optimizer.param_groups
    found = {names.get(id(p), "beside"): g["lr"] for g in groups for p in g["params"]}
    return {name: float(rate) for name, rate in found.items()}


def states(learner: Learner) -> dict[str, Tensor]:
    return {k: x.clone() for k, x in learner.student.network.state_dict().items()}


def test_the_rate_decays_towards_the_stem(tiny: MakeStudent) -> None:
    learner, feed = learner_of(tiny("train.layer_decay=0.5"))
    learner.step(feed(0), 0)
    found = rates(learner)
    whole = found["head.weight"]
    assert whole == learner.rate.now == found["beside"]
    assert found["head_dist.bias"] == whole
    for name, factor in (
        ("norm.weight", 2), ("blocks.2.mlp.fc1.weight", 2), ("blocks.1.norm1.bias", 4),
        ("blocks.0.attn.qkv.weight", 8), ("patch_embed.proj.weight", 16), ("pos_embed", 16),
        ("dist_token", 16),
    ):  # fmt: skip
        assert found[name] == pytest.approx(whole / factor), name


def test_weight_decay_is_that_without_decay_by_layer(tiny: MakeStudent) -> None:
    def decays(*settings: str) -> dict[int, float]:
        learner, _ = learner_of(tiny(*settings))
        places = {id(p): i for i, p in enumerate(learner.student.network.parameters())}
        return {
            places[id(p)]: group["weight_decay"]
            for group in learner.optimizer.param_groups
            for p in group["params"]
            if id(p) in places
        }

    assert decays("train.layer_decay=0.9") == decays()


@pytest.mark.parametrize(
    ("freeze", "options", "frozen"),
    [
        ("1", [], ("cls_token", "dist_token", "pos_embed", "patch_embed.")),
        ("2", [], ("cls_token", "dist_token", "pos_embed", "patch_embed.", "blocks.0.")),
        ("all", [], ("cls_token", "dist_token", "pos_embed", "patch_embed.", "blocks.", "norm.")),
        ("3", CNN, ("conv1.", "bn1.", "layer1.", "layer2.")),
        ("all", CNN, ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")),
    ],
)
def test_frozen_layers_keep_weights_and_buffers_to_the_bit(
    freeze: str, options: list[str], frozen: tuple[str, ...], tiny: MakeStudent
) -> None:
    options = ["objective.token=null", *options] if options else []
    learner, feed = learner_of(tiny(f"train.freeze={freeze}", *options))
    before = states(learner)
    for number in range(3):
        learner.step(feed(number), number)
    after = states(learner)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith(frozen) for name in moved)
    assert {
        n for n in before if not n.startswith(frozen) and before[n].is_floating_point()
    } <= moved


def test_frozen_layers_are_in_eval_mode_after_an_evaluation(tiny: MakeStudent) -> None:
    learner, _ = learner_of(tiny("train.freeze=2", "student.drop_path=0.5"))
    for _ in range(2):
        blocks: Any = learner.student.network.blocks
        assert [block.training for block in blocks] == [False, True, True]
        assert learner.student.network.head.training
        learner.student.eval().train()


def test_more_layers_than_there_are_is_refused(tiny: MakeStudent) -> None:
    with pytest.raises(SettingsError, match=r"freeze = 5: the student has 4 layers below"):
        learner_of(tiny("train.freeze=5"))


def test_a_fine_tuning_resumes_bit_for_bit(tiny: MakeStudent, tmp_path: Path) -> None:
    train(tiny("train.epochs=1", "data.resolution=32"), tmp_path / "first")
    rich = [
        f"student.weights={tmp_path / 'first'}", "train.freeze=2", "train.layer_decay=0.7",
        "train.ema_decay=0.9", "train.checkpoint_every=7", "seed=3",
    ]  # fmt: skip
    train(tiny(*rich), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", _dies_at(9))
        with pytest.raises(ZeroDivisionError):
            train(tiny(*rich), tmp_path / "stopped")
    train(tiny(*rich), tmp_path / "stopped", resume=True)
    assert_identical(tmp_path / "whole", tmp_path / "stopped")
