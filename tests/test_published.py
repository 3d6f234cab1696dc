from pathlib import Path

import pytest

from gan_vkd.game.settings import load_settings
from gan_vkd.report.published import (
    ARMS,
    DEVIATIONS,
    PUBLISHED_FID,
    deviations_table,
    published_fid,
)
from tests.conftest import config_of

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
VKD = ("layernorm", "whitening")


def config(data: str, arm: str) -> Path:
    return config_of(f"{data}_10pct", arm)


@pytest.mark.parametrize("arm", PUBLISHED_FID)
@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_each_row_has_its_config_and_published_figure(data: str, arm: str) -> None:
    """Except VkD's figures, whose settings are not known."""
    settings = load_settings(config(data, arm))
    assert settings.arm == arm
    figure = None if arm in VKD else PUBLISHED_FID[arm][data == "cifar100"]
    assert published_fid(settings) == figure


def test_figures_of_the_paper() -> None:
    """Spot checks against the method's description, table of CIFAR-10 and CIFAR-100 at 10%."""
    assert published_fid(load_settings(config("cifar10", "kd_dlgm"))) == 14.20
    assert published_fid(load_settings(config("cifar100", "spkd"))) == 31.97
    assert PUBLISHED_FID["whitening"] == (13.16, 16.87)
    assert {*ARMS, *VKD} == PUBLISHED_FID.keys()


@pytest.mark.parametrize("arm", VKD)
@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
@pytest.mark.parametrize("aggregated", [0, 10])
def test_the_figures_of_vkd_are_shown_beside_no_run(data: str, arm: str, aggregated: int) -> None:
    settings = load_settings(config(data, arm), [f"distill.aggregated={aggregated}"])
    assert published_fid(settings) is None


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
        "distill.view=clean",
        "distill.images=real",
        "distill.aggregated=10",
        "distill.method=rkd",
        "regularize.lecam=0.3",
        "data.flip=false",
        "data.heldout=/x",
        "distill.teacher.size=64",
        "distill.teacher.enlarge=bicubic",
        "distill.teacher.normalize=true",
        "distill.pairs=[{}, {student: {layer: blocks.1.0}}]",
    ],
)
def test_other_settings_have_no_published_figure(change: str) -> None:
    assert published_fid(load_settings(config("cifar10", "spkd"), [change])) is None


@pytest.mark.parametrize(
    ("arm", "change"),
    [
        ("pkd", "distill.method.form=paper"),
        ("kd_dlgm", "distill.text.normalize=true"),
        ("kd_dlgm", "distill.method.spectral=false"),
        ("kd_dlgm", "distill.text.names=[cat, dog]"),
        ("kd_dlgm", "distill.text=null"),
    ],
)
def test_a_method_in_another_form_has_no_published_figure(arm: str, change: str) -> None:
    assert published_fid(load_settings(config("cifar10", arm), [change])) is None


def test_cifar100_with_its_own_class_names_has_no_published_figure() -> None:
    own_names = load_settings(config("cifar100", "kd_dlgm"), ["distill.text.names=null"])
    assert published_fid(own_names) is None


@pytest.mark.parametrize(
    "change", ["seed=5", "data.root=/data", "train.log_every=7", "distill.teacher.weights=x.bin"]
)
def test_irrelevant_settings_do_not_change_the_published_figure(change: str) -> None:
    assert published_fid(load_settings(config("cifar10", "spkd"), [change])) == 19.11


@pytest.mark.parametrize(
    "name",
    ["cifar10_10pct+methods/spkd+data.fraction=0.2", "cifar10_10pct+methods/rkd", "folder"],
)
def test_experiments_outside_of_the_table_have_no_published_figure(name: str) -> None:
    assert published_fid(load_settings(CONFIGS / name)) is None


@pytest.mark.parametrize("setting", [x.setting for x in DEVIATIONS if x.setting is not None])
def test_settings_of_the_deviations_are_valid_and_differ_from_ours(setting: str) -> None:
    ours = load_settings(config("cifar10", "whitening"))
    theirs = load_settings(config("cifar10", "whitening"), [setting])
    assert theirs != ours
    if setting.startswith("+"):
        assert theirs.model_copy(update={"distill": ours.distill}) == ours


def test_the_documentation_has_the_list_of_deviations() -> None:
    assert deviations_table() in (ROOT / "docs" / "deviations.md").read_text(), (
        "docs/deviations.md differs from gan_vkd.report.published.deviations_table()"
    )
