"""Run folders of earlier versions: settings, checkpoints and records."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

from classification.recognition.settings import FeatureSettings
from gan_vkd.game.settings import TrainSettings, load_settings
from gan_vkd.runtime.checkpoint import load_state, save_state
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.folder import RunFolder
from gan_vkd.runtime.progress import Progress, RunState

WHITENING = {
    "momentum": 0.0, "eps": 1e-5, "shrinkage": "auto", "directions": 16, "agreement": 0.5,
    "every": 100, "groups": 1,
}  # fmt: skip
# as dumped by the version before components
STORED: dict[str, Any] = {
    "method": "vkd", "projection": "orthogonal_fixed", "normalization": "whitening_pca",
    "whitening": WHITENING, "statistics": "training_set", "distance": "norm", "pkd_form": "paper",
    "teacher": {"name": "cifar_resnet56"}, "text": None, "spectral_head": True, "weight": "auto",
    "gradient_ratio": 0.3, "images": "real", "view": "clean",
}  # fmt: skip


def read(tmp_path: Path, distill: dict[str, Any]) -> Any:
    tree = {"arm": "x", "data": {"source": "digits"}, "distill": distill}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(tree))
    distilled = load_settings(tmp_path).distill
    assert distilled is not None
    return distilled


def test_a_stored_vkd_is_read_with_all_its_options(tmp_path: Path) -> None:
    settings = read(tmp_path, STORED)
    method = settings.method.chosen
    assert method["projection"] == {"name": "orthogonal_fixed"}
    assert method["distance"] == "norm"
    expected = WHITENING | {"name": "whitening", "kind": "pca", "statistics": "training_set"}
    assert method["normalization"] == expected
    assert (settings.weight, settings.gradient_ratio, settings.view) == ("auto", 0.3, "clean")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"method": "pkd", "pkd_form": "code"}, {"name": "pkd", "form": "code"}),
        ({"method": "fitnets"}, {"name": "fitnets"}),
        (
            {"method": "kd_dlgm", "images": "both", "spectral_head": False},
            {"name": "kd_dlgm", "spectral": False},
        ),
    ],
)
def test_stored_options_of_other_methods_are_read(
    changes: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    usual = {"normalization": "whitening", "statistics": "running"}
    assert read(tmp_path, STORED | usual | changes).method.chosen == expected


@pytest.mark.parametrize("name", ["layer_norm", "standardize", "phi_s", "l2", "none"])
def test_stored_normalisations_are_read(name: str, tmp_path: Path) -> None:
    read_as = read(tmp_path, STORED | {"normalization": name, "statistics": "running"})
    assert read_as.method.chosen["normalization"]["name"] == name


def test_a_stored_objective_is_read() -> None:
    names = ("method", "projection", "whitening", "pkd_form")
    stored = {name: STORED[name] for name in names} | {
        "normalization": "layer_norm", "statistics": "running", "distance": "smooth_l1",
        "tokens": "patches", "weight": 2.0,
    }  # fmt: skip
    settings = FeatureSettings.model_validate(stored)
    assert settings.method.chosen["normalization"] == {"name": "layer_norm"}
    assert (settings.tokens, settings.weight) == ("patches", 2.0)


def test_an_earlier_key_in_a_new_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"distill\.projection: unknown key"):
        read(tmp_path, {"teacher": {"name": "cifar_resnet56"}, "projection": "linear"})


# rollbacks were called returns


def train_section(tmp_path: Path, train: dict[str, Any], *overrides: str) -> Any:
    tree = {"arm": "x", "data": {"source": "digits"}, "train": train}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(tree))
    return load_settings(tmp_path, list(overrides)).train


def test_stored_returns_are_read_as_rollbacks(tmp_path: Path) -> None:
    stored = TrainSettings().model_dump(mode="json")
    for name in ("rollbacks", "rollback_lr_factor"):
        del stored[name]
    stored |= {"returns": 3, "return_lr_factor": 0.25}
    expected = TrainSettings(rollbacks=3, rollback_lr_factor=0.25)
    assert train_section(tmp_path, stored) == expected
    assert train_section(tmp_path, stored, "train.rollbacks=6").rollbacks == 6


def test_a_stored_run_without_a_precision_was_in_float32(tmp_path: Path) -> None:
    stored = TrainSettings().model_dump(mode="json")
    for name in ("rollbacks", "rollback_lr_factor", "precision"):
        del stored[name]
    stored |= {"returns": 3, "return_lr_factor": 0.25}
    assert train_section(tmp_path, stored).precision == "float32"
    assert train_section(tmp_path, stored | {"precision": "bfloat16"}).precision == "bfloat16"
    assert train_section(tmp_path, {"checkpoint_every": 100}).precision == "auto"


@pytest.mark.parametrize("key", ["returns", "return_lr_factor"])
def test_returns_in_a_new_file_are_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"train\.{key}: unknown key"):
        train_section(tmp_path, {key: 1, "checkpoint_every": 100})


class Weights:
    """The least that a checkpoint can save."""

    factor = 0.0

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        assert state == {}

    def shared(self) -> dict[str, Tensor]:
        return {}

    def set_learning_rates(self, factor: float) -> None:
        self.factor = factor


def test_the_returns_of_a_checkpoint_are_read_as_rollbacks(tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text("arm: x\ndata: {source: digits}\n")
    settings, folder = load_settings(tmp_path / "new.yaml"), RunFolder(tmp_path / "run")
    written = RunState(folder, Weights(), settings, "cpu", ("7 images", "digest"))
    written.progress = Progress(iteration=7, rollbacks=2)
    written.save()
    (file,) = folder.checkpoints()
    state = load_state(file)
    state["progress"]["returns"] = state["progress"].pop("rollbacks")
    save_state(file, state)
    weights = Weights()
    resumed = RunState(folder, weights, settings, "cpu", ("7 images", "digest"))
    resumed.restore()
    assert resumed.progress == Progress(iteration=7, rollbacks=2)
    assert weights.factor == 0.25


def test_returns_in_records_are_read_as_rollbacks(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    record = {"iteration": 4, "seconds": 1.5, "from": 5, "tensor": "d_loss"}
    folder.append("metrics", record | {"returns": 1})
    assert folder.records("metrics") == [record | {"rollbacks": 1}]
