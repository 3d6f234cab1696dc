"""Settings of run folders of earlier versions."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from classification.recognition.settings import FeatureSettings
from gan_vkd.game.settings import load_settings
from gan_vkd.runtime.errors import SettingsError

WHITENING = {
    "momentum": 0.0, "eps": 1e-5, "shrinkage": "auto", "directions": 16, "agreement": 0.5,
    "every": 100, "groups": 1,
}  # fmt: skip
# As the version before components dumped it
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
def test_other_methods_keep_what_they_had(
    changes: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    usual = {"normalization": "whitening", "statistics": "running"}
    assert read(tmp_path, STORED | usual | changes).method.chosen == expected


@pytest.mark.parametrize("name", ["layer_norm", "standardize", "phi_s", "l2", "none"])
def test_other_normalisations_are_read(name: str, tmp_path: Path) -> None:
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


def test_a_key_of_before_in_a_file_of_ones_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"distill\.projection: unknown key"):
        read(tmp_path, {"teacher": {"name": "cifar_resnet56"}, "projection": "linear"})
