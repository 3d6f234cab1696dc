"""Settings of detection: those that are here, and those that cannot be."""

from pathlib import Path

import pytest

from classification.detection.settings import load_settings
from gan_vkd.runtime.errors import SettingsError
from tests.classification.detection.conftest import CONFIGS, MakeDetection


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["teacher.weights=null"], "the teacher has no weights"),
        (["student.queries=5"], "queries must be equal"),
        (["student.layers=1"], "layers must be equal"),
        (["distill=null"], "distill and teacher belong together"),
        (["student.width=40"], "multiple of 16"),
        (["distill.method=token_matching", "distill.projection=linear"], "belongs to method = vkd"),
        (["distill.patches=0", "distill.body=0", "distill.neck=0"], "nothing is taught"),
        (["augment.crop_sizes=[100, 50]"], "the smaller side comes first"),
        (["train.cooldown_epochs=2"], "cooldown_epochs must be fewer"),
        (["data.std=[0, 1, 1]"], "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_together(
    overrides: list[str], said: str, tiny_detection: MakeDetection
) -> None:
    with pytest.raises(SettingsError, match=said):
        tiny_detection(*overrides)


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("coco_*.yaml")), ids=lambda path: path.stem)
def test_every_settings_file_is_valid(config: Path) -> None:
    settings = load_settings(config)
    assert settings.student.size in config.stem
    assert (settings.teacher is not None) == config.stem.endswith(("_vkd", "_token_matching"))
