"""Training that diverges: the message blames the right network, and a rollback is possible."""

from pathlib import Path
from typing import Any

import pytest

from gan_vkd.run import Run
from gan_vkd.runtime.checkpoint import load_state
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.training import train
from tests.conftest import MakeSettings
from tests.test_training import inject_nan

RELATIVE = "adversary=relativistic"
REGULARIZED = "regularize={lecam: 0.3, lecam_start: 0, consistency: 2, r1: 0.5, r1_every: 4}"


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
