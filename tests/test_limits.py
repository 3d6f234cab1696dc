"""Sizes and paths beyond any use are refused in one line, before they overflow or never end."""

from pathlib import Path

import pytest

from classification.detection.settings import load_settings as load_detection
from classification.recognition.settings import load_settings as load_recognition
from gan_vkd.game.settings import load_settings
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.settings_file import load_as
from gan_vkd.teachers.teach import TeachSettings
from tests.conftest import CONFIGS

HUGE = (10**9, 10**12, 10**30, "9" * 400, 1e300)
HUGE_RATES = (1e31, "9" * 400, 1e300)  # beyond float32 or near its end
GAN = (
    "train.batch_size", "train.iterations", "train.d_steps", "train.g_lr", "train.d_lr",
    "train.log_every", "train.ema_start", "train.rollbacks", "train.keep_checkpoints",
    "evaluate.batch_size", "evaluate.num_samples", "evaluate.standing_batches", "evaluate.every",
    "data.num_images", "data.max_megapixels", "model.ch", "regularize.lecam_start",
    "regularize.path_length_every", "train.freeze_d",
)  # fmt: skip
EPOCHS = (
    "train.batch_size", "train.epochs", "train.lr", "train.min_lr", "train.warmup_lr",
    "train.warmup_epochs", "train.accumulate", "evaluate.batch_size", "data.workers",
    "data.max_megapixels",
)  # fmt: skip


def load_teach(path: Path, overrides: list[str]) -> TeachSettings:
    path.write_text("data: {source: digits}")
    return load_as(TeachSettings, path, overrides)


CASES = [
    *((load_settings, "quickstart.yaml", key) for key in GAN),
    *((load_recognition, "cifar10_vit.yaml", key) for key in EPOCHS),
    *((load_detection, "coco_vidt_nano.yaml", key) for key in (*EPOCHS, "student.layers")),
    *((load_teach, "", key) for key in ("batch_size", "iterations", "lr")),
]


@pytest.mark.parametrize(("load", "name", "key"), CASES, ids=[case[2] for case in CASES])
def test_huge_sizes_are_refused(load, name, key, tmp_path):
    config = CONFIGS / name if name else tmp_path / "teach.yaml"
    for value in HUGE_RATES if key.endswith("lr") else HUGE:
        with pytest.raises(VkdError) as caught:
            load(config, [f"{key}={value}"])
        assert key in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("value", [1e13, 1e300])
@pytest.mark.parametrize("key", ["regularize.lecam", "distill.weight", "distill.aggregated"])
def test_huge_weights_are_refused(key, value):
    with pytest.raises(VkdError, match=f"{key}.*(less|at most)"):
        load_settings(CONFIGS / "quickstart_whitening.yaml", [f"{key}={value}"])
    load_settings(CONFIGS / "quickstart_whitening.yaml", ["distill.weight=1e12"])
