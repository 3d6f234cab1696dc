"""Training that diverges: the message blames the right network, and a rollback is possible."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from gan_vkd.game.adversary import Hinge
from gan_vkd.game.distillation import Distillation
from gan_vkd.game.trainer import Trainer
from gan_vkd.run import Run
from gan_vkd.runtime.checkpoint import load_state
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.training import train
from tests.conftest import MakeSettings
from tests.states import flat

RELATIVE = "adversary=relativistic"
REGULARIZED = "regularize={lecam: 0.3, lecam_start: 0, consistency: 2, r1: 0.5, r1_every: 4}"


def inject_nan(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    calls, hinge = iter(range(1_000)), Hinge.discriminator

    def with_nan(self: Hinge, real: Tensor, fake: Tensor) -> Tensor:
        loss = hinge(self, real, fake)
        return loss * float("nan") if next(calls) == call else loss

    monkeypatch.setattr(Hinge, "discriminator", with_nan)


def refusal(*given: Any, **options: Any) -> str:
    with pytest.raises(VkdError) as caught:
        train(*given, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("arm", ["none", "layernorm", "whitening"])
@pytest.mark.parametrize("own", [(), (RELATIVE,), (REGULARIZED,)], ids=["plain", "rel", "reg"])
@pytest.mark.parametrize("d_steps", [1, 2])
@pytest.mark.parametrize("network", ["g", "d"])
def test_the_learning_rate_that_is_too_large_is_blamed(
    network: str, d_steps: int, own: tuple[str, ...], arm: str, small: MakeSettings, tmp_path: Path
) -> None:
    chosen = f"train.{network}_lr=1e20", f"train.d_steps={d_steps}", "train.rollbacks=0", *own
    message = refusal(small(*chosen, arm=arm), tmp_path / "run")
    other = {"g": "d", "d": "g"}[network]
    assert f"train.{network}_lr" in message
    assert f"train.{other}_lr" not in message
    assert "distill.teacher" not in message


@pytest.mark.parametrize("arm", ["none", "whitening"])
@pytest.mark.parametrize("network", ["g", "d"])
def test_a_learning_rate_of_10000_ends_in_one_line_at_most(
    network: str, arm: str, small: MakeSettings, tmp_path: Path
) -> None:
    message = ""
    try:
        train(small(f"train.{network}_lr=1e4", "train.d_steps=1", arm=arm), tmp_path / "run")
    except VkdError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
    assert not message or f"train.{network}_lr" in message


@pytest.mark.parametrize("key", ["g_lr", "d_lr"])
def test_a_learning_rate_beyond_float32_is_refused(key: str, small: MakeSettings) -> None:
    with pytest.raises(SettingsError, match=rf"train\.{key}") as caught:
        small(f"train.{key}=1e300")
    assert len(str(caught.value).splitlines()) == 1


def test_a_rollback_before_the_first_checkpoint_is_due_restarts_the_run(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small("train.rollbacks=2", "train.checkpoint_every=6", "evaluate.every=6")
    inject_nan(monkeypatch, 3)
    train(settings, tmp_path / "run")
    records = Run(tmp_path / "run").records("metrics")
    (rollback,) = [r for r in records if "rollbacks" in r]
    assert (rollback["iteration"], rollback["from"]) == (0, 2)
    assert [r["iteration"] for r in records if "d_loss" in r] == [1, 2, 3, 4, 5, 6]
    state = load_state(Run(tmp_path / "run").checkpoints()[-1])
    assert state["progress"]["rollbacks"] == 1
    assert state["trained"]["d_optimizer"]["param_groups"][0]["lr"] == settings.train.d_lr / 2


def test_only_a_checkpoint_that_exists_is_advised(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        inject_nan(patch, 0)
        message = refusal(small(arm="none"), tmp_path / "a")
    assert message.endswith("there is no checkpoint yet; try a smaller train.d_lr in a new run")
    assert not Run(tmp_path / "a").checkpoints()
    with monkeypatch.context() as patch:
        inject_nan(patch, 4)
        message = refusal(small(arm="none"), tmp_path / "b")
    (kept,) = Run(tmp_path / "b").checkpoints()
    assert f"the last good checkpoint is {kept};" in message
    assert "--resume train.rollbacks=3" in message


def test_a_non_finite_loss_is_an_error_with_iteration_and_checkpoint(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small("train.log_every=2")
    with monkeypatch.context() as patch:
        inject_nan(patch, 2 * 4)
        with pytest.raises(VkdError) as error:
            train(settings, tmp_path / "run")
    kept = Run(tmp_path / "run").checkpoints()
    assert "not finite at iteration 5" in str(error.value)
    assert str(kept[-1]) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    weights = flat(load_state(kept[-1]))
    assert all(v.isfinite().all() for v in weights.values() if isinstance(v, Tensor))
    train(settings, tmp_path / "run", resume=True)


def test_the_first_non_finite_tensor_is_named(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A non-finite teacher shows first in the whitening statistics, a bad step in a gradient."""
    target, calls = Distillation._target, iter(range(1_000))

    def broken(self: Any, *args: Any) -> Tensor:
        features = target(self, *args)
        return features / 0 if next(calls) == 7 else features

    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "_target", broken)
        with pytest.raises(VkdError) as error:
            train(small(), tmp_path / "a")
    assert "distillation.method.methods.0.normalize.mean is not finite at iteration 4" in str(
        error.value
    )
    assert "try another distill.teacher" in str(error.value)

    step, called = Trainer.update_generator, count()

    def exploding(self: Trainer, *args: Any) -> dict[str, Tensor]:
        losses = step(self, *args)
        if next(called) == 4:
            self.generator.linear.weight.grad.fill_(float("inf"))  # type: ignore[union-attr]
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update_generator", exploding)
        with pytest.raises(VkdError) as error:
            train(small(), tmp_path / "b")
    named = "the gradient of generator.linear.weight is not finite at iteration 5"
    assert named in str(error.value)
    assert "try a smaller train.g_lr" in str(error.value)


def test_a_rollback_lowers_the_learning_rate(
    small: MakeSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = small("train.rollbacks=1", "train.rollback_lr_factor=0.25", arm="none")
    with monkeypatch.context() as patch:
        inject_nan(patch, 2 * 4)
        train(settings, tmp_path / "run")
    printed = capsys.readouterr().out
    assert "d_loss is not finite at iteration 5; rolled back to iteration 4" in printed
    records = Run(tmp_path / "run").records("metrics")
    (rollback,) = [r for r in records if "rollbacks" in r]
    assert rollback | {"seconds": 0} == {
        "iteration": 4, "seconds": 0, "rollbacks": 1, "from": 5, "tensor": "d_loss",
    }  # fmt: skip
    assert [r["iteration"] for r in records if "d_loss" in r] == [1, 2, 3, 4, 5, 6]
    state = load_state(Run(tmp_path / "run").checkpoints()[-1])
    assert state["progress"]["rollbacks"] == 1
    for optimizer, lr in (
        ("d_optimizer", settings.train.d_lr),
        ("g_optimizer", settings.train.g_lr),
    ):
        assert state["trained"][optimizer]["param_groups"][0]["lr"] == 0.25 * lr

    with monkeypatch.context() as patch:
        inject_nan(patch, 2 * 4)
        # the second fault, 3 iterations of 2 updates after the rollback, is one too many
        hinge, calls = Hinge.discriminator, iter(range(1_000))
        patch.setattr(
            Hinge,
            "discriminator",
            lambda self, real, fake: hinge(self, real, fake) / (0 if next(calls) == 11 else 1),
        )
        with pytest.raises(VkdError, match="after 1 rollback;") as error:
            train(settings, tmp_path / "again")
    assert "--resume train.rollbacks=4" in str(error.value)


def test_a_rollback_keeps_the_new_length_of_a_run(
    small: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(small("train.iterations=4", arm="none"), tmp_path / "run")
    inject_nan(monkeypatch, 0)  # the first update after resuming
    longer = small("train.iterations=8", "train.rollbacks=1", "train.log_every=3", arm="none")
    train(longer, tmp_path / "run", resume=True)
    records = Run(tmp_path / "run").records("metrics")
    assert [r["rollbacks"] for r in records if "rollbacks" in r] == [1]
    assert load_state(Run(tmp_path / "run").checkpoints()[-1])["progress"]["total"] == 8
    assert [r["iteration"] for r in records if "precision" in r] == [3, 4, 6, 8]
