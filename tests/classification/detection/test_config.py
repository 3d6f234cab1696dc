"""Settings of detection: the shipped files load, inconsistent values are refused."""

import pytest

from classification.detection.settings import load_settings
from gan_vkd.runtime.errors import SettingsError
from tests.classification.detection.conftest import CONFIGS, MakeDetection


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.weights=null"], "the teacher has no weights"),
        (["student.queries=5"], "queries must be equal"),
        (["student.layers=1"], "layers must be equal"),
        (["distill=null"], "distill and teacher belong together"),
        (["student.width=40"], "multiple of 16"),
        (["distill.method=token_matching", "distill.projection=linear"], "belongs to method = vkd"),
        (["distill.patches=0", "distill.body=0", "distill.neck=0"], "at least one weight above 0"),
        (["augment.crop_sizes=[100, 50]"], "the smaller side comes first"),
        (["train.cooldown_epochs=2"], "cooldown_epochs must be fewer"),
        (["data.std=[0, 1, 1]"], "greater than 0"),
    ],
)
def test_inconsistent_settings_are_refused(
    overrides: list[str], message: str, tiny_detection: MakeDetection
) -> None:
    with pytest.raises(SettingsError, match=message):
        tiny_detection(*overrides)


PLAIN = [file.stem for file in sorted(CONFIGS.glob("coco_*.yaml"))]
METHODS = ("vkd", "token_matching")
TAUGHT = [f"{name}+objectives/vidt_{method}" for name in PLAIN for method in METHODS]


@pytest.mark.parametrize("size", ["nano", "tiny"])
@pytest.mark.parametrize("name", [*PLAIN, *TAUGHT])
def test_every_settings_file_is_valid(name: str, size: str) -> None:
    settings = load_settings(CONFIGS / name, [f"student.size={size}"])
    assert settings.student.size == size
    assert (settings.teacher is not None) == (name in TAUGHT)
    assert settings.arm == (name.partition("vidt_")[2].partition("vidt_")[2] or "plain")


def test_the_settings_of_the_released_codes() -> None:
    plain = load_settings(CONFIGS / "coco_vidt_nano")
    taught = load_settings(CONFIGS / "coco_vidt_nano+objectives/vidt_vkd")
    for settings in (plain, taught):
        train, evaluate = settings.train, settings.evaluate
        assert (train.epochs, train.batch_size, settings.lr, train.min_lr) == (50, 16, 1e-4, 1e-7)
        assert (train.weight_decay, train.clip_norm, train.warmup_epochs) == (1e-4, 0.1, 0)
        assert (train.padded_to, evaluate.batch_size) == ("rank", 2)
        assert (evaluate.scale, evaluate.longest) == (800, 1333)
    assert taught.distill is not None
    assert (taught.distill.padding, taught.distill.weight) == ("counted", 4)
    assert taught.distill.standardize == "both"
    assert taught.train.projection_weight_decay == 1e-4
