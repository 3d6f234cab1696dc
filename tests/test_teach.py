from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from gan_vkd.runtime.checkpoint import load_state
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.teachers.teach import TeachSettings, teach

TEACH = {"data": {"source": "digits", "flip": False}, "depth": 8, "iterations": 2}


def test_teaching_is_reproducible_and_better_than_chance(tmp_path):
    settings = TeachSettings.model_validate(TEACH | {"iterations": 40, "seed": 5})
    accuracies = [teach(settings, tmp_path / f"{i}.safetensors") for i in range(2)]
    first, second = (load_state(tmp_path / f"{i}.safetensors")["network"] for i in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert accuracies[0] == accuracies[1]
    assert accuracies[0] > 0.3, "at least three times chance"


def folder_of(root: Path, *classes: str) -> str:
    for name in classes:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(root / name / "a.png")
    return str(root)


def test_a_set_without_classes_is_refused(tmp_path):
    data = {"source": folder_of(tmp_path / "x", "only")}
    settings = TeachSettings.model_validate(TEACH | {"data": data})
    with pytest.raises(SettingsError, match="nothing to teach"):
        teach(settings, tmp_path / "t.safetensors")


@pytest.mark.parametrize("heldout", ["other", "missing"])
def test_an_unusable_heldout_set_is_refused_before_training(heldout, tmp_path, monkeypatch):
    folder_of(tmp_path / "other", "b", "c")
    data = {"source": folder_of(tmp_path / "x", "a", "b"), "heldout": str(tmp_path / heldout)}
    settings = TeachSettings.model_validate(TEACH | {"data": data})
    monkeypatch.setattr(nn.Module, "__call__", lambda *a: pytest.fail("trained"))
    with pytest.raises(VkdError, match=heldout) as caught:
        teach(settings, tmp_path / "t.safetensors")
    assert len(str(caught.value).splitlines()) == 1
