"""Small runs for tests: a tiny ViT on a hundred digits, a teacher trained for two iterations."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from classification.recognition.data.feed import Feed
from classification.recognition.data.images import load_training_images
from classification.recognition.learner import Learner
from classification.recognition.network.students import build_student
from classification.recognition.settings import ClassifierSettings, load_settings
from gan_vkd.teachers.frozen import load_recogniser

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
VARIANTS = {  # of VkD
    "vkd_linear": "objective.features.method.projection=linear",
    "vkd_mlp": "objective.features.method.projection=mlp",
    "vkd_none": "objective.features.method.normalization=none",
    "vkd_standardize": "objective.features.method.normalization=standardize",
    "vkd_whitening": "objective.features.method.normalization=whitening",
    "vkd_hard": "objective.label=0.5+objective.token={kind: hard, weight: 0.5}",
}
OWN = {"plain": "cifar10_vit", "vkd": "cifar10_vit_vkd"}
OWN |= {arm: f"cifar10_vit_vkd+{value}+arm={arm}" for arm, value in VARIANTS.items()}
MakeStudent = Callable[..., ClassifierSettings]


@pytest.fixture(scope="session")
def tiny(classifier: Path) -> MakeStudent:
    """tiny("key=value", ..., arm="vkd"): settings of a run that takes seconds."""

    def make(*overrides: str, arm: str = "vkd") -> ClassifierSettings:
        name = OWN.get(arm, f"cifar10_vit+objectives/resnet56+objectives/{arm}")
        settings = [
            "data.source=digits",
            "data.fraction=null",
            "data.num_images=100",
            "data.workers=0",
            "student.options={img_size: 32, patch_size: 8, embed_dim: 24, depth: 3, num_heads: 2}",
            "student.stem=patch",
            "student.drop_path=0.1",
            "augment.mixup=0",
            "augment.cutmix=0",
            "train.epochs=3",
            "train.batch_size=20",
            "train.warmup_epochs=1",
            "train.log_every=1",
            "train.checkpoint_every=4",
            "evaluate.every=1",
            "device=cpu",
        ]
        if arm != "plain":
            settings += [
                f"teachers.resnet56={{name: classifier, weights: {str(classifier)!r}}}",
            ]
        if arm == "cit":
            settings += [
                f"teachers.resnet20={{name: classifier, weights: {str(classifier)!r}}}",
            ]
        return load_settings(CONFIGS / name, [*settings, *overrides])

    return make


def learner_of(settings: ClassifierSettings) -> tuple[Learner, Feed]:
    """Learner and feed as a run builds them, before the first update."""
    feed = Feed(settings, load_training_images(settings.data), "cpu")
    early = settings.objective.early
    early_layer, layers = (None, []) if early is None else (early.teacher, [early.student])
    teachers = [load_recogniser(n, 32, "cpu", early_layer) for n in settings.teachers.values()]
    torch.manual_seed(0)
    student = build_student(settings.student, 10, len(teachers), layers)
    return Learner(settings, student, teachers, feed.per_epoch, "cpu"), feed
