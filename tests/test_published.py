from pathlib import Path

import pytest

from gan_vkd.config import load_settings
from gan_vkd.published import ARMS, PUBLISHED_FID, published_fid

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def config(data: str, arm: str) -> Path:
    return CONFIGS / (f"{data}_10pct.yaml" if arm == "none" else f"{data}_10pct_{arm}.yaml")


@pytest.mark.parametrize("arm", PUBLISHED_FID)
@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_each_row_has_its_config_and_its_figure(data: str, arm: str) -> None:
    settings = load_settings(config(data, arm))
    assert settings.arm == arm
    assert published_fid(settings) == PUBLISHED_FID[arm][data == "cifar100"]


def test_figures_of_the_paper() -> None:
    """Spot checks against the method's description, table of CIFAR-10 and CIFAR-100 at 10%."""
    assert published_fid(load_settings(config("cifar10", "kd_dlgm"))) == 14.20
    assert published_fid(load_settings(config("cifar100", "layernorm"))) == 24.92
    assert ARMS.keys() == PUBLISHED_FID.keys()


@pytest.mark.parametrize(
    "change",
    [
        "data.fraction=0.2",
        "data.source=digits",
        "model.ch=32",
        "augment=[color, translation, cutout]",
        "train.iterations=1000",
        "train.d_steps=2",
        "evaluate.features.name=cifar_resnet20",
        "evaluate.features.name=inception",
        "evaluate.num_samples=5000",
        "evaluate.reference=train",
        "distill.weight=1",
        "distill.teacher.name=cifar_resnet56",
        "distill.projection=linear",
        "distill.normalization=l2",
        "distill.view=clean",
        "distill.method=rkd",
        "regularize.lecam=0.3",
        "data.flip=false",
        "data.heldout=/x",
        "distill.statistics=training_set",
        "distill.whitening.groups=8",
        "distill.teacher.size=64",
        "distill.pairs=[{}, {student: {layer: blocks.1.0}}]",
    ],
)
def test_other_settings_have_none(change: str) -> None:
    assert published_fid(load_settings(config("cifar10", "whitening"), [change])) is None


@pytest.mark.parametrize(
    "change", ["seed=5", "data.root=/data", "train.log_every=7", "distill.teacher.weights=x.bin"]
)
def test_what_does_not_matter_does_not_matter(change: str) -> None:
    assert published_fid(load_settings(config("cifar10", "whitening"), [change])) == 13.16


@pytest.mark.parametrize("name", ["cifar10_20pct_whitening", "cifar10_10pct_rkd", "folder"])
def test_experiments_outside_of_the_table_have_none(name: str) -> None:
    assert published_fid(load_settings(CONFIGS / f"{name}.yaml")) is None
