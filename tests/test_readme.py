"""The code blocks of README.md and docs/code.md run."""

from typing import Any

import torch
from torch import nn

from gan_vkd.data.augment import Augmentations
from gan_vkd.data.batches import Batches
from gan_vkd.data.sets import load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.distill import StudentFeature, Teacher, VkDLoss
from gan_vkd.game.adversary import Hinge
from gan_vkd.game.distillation import Distillation, Pair
from gan_vkd.game.trainer import Trainer
from gan_vkd.networks.biggan import Discriminator, Generator
from tests.documents import ROOT, blocks

(CORE,) = blocks(ROOT / "README.md", "python")
CORE_AGAIN, OBJECTS = blocks(ROOT / "docs/code.md", "python")


def test_the_core_runs_in_a_users_training_loop() -> None:
    assert CORE == CORE_AGAIN
    student = nn.Linear(8, 256)
    features = student(torch.randn(4, 8))
    given: dict[str, Any] = {
        "optimizer": torch.optim.Adam(student.parameters()),
        "task_loss": features.square().mean(),
        "student_features": features,
        "teacher_features": torch.randn(4, 512),
    }
    exec(CORE, given)
    p = given["vkd"].project.matrix()
    torch.testing.assert_close(p.T @ p, torch.eye(256), rtol=0, atol=1e-5)


def test_the_trainer_is_assembled_from_objects() -> None:
    given = {
        kind.__name__: kind
        for kind in (
            Augmentations, Batches, DataSettings, Discriminator, Distillation, Generator, Hinge,
            Pair, StudentFeature, Teacher, Trainer, VkDLoss,
        )
    }  # fmt: skip
    network = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 24))
    given |= {"load_training_set": load_training_set, "network": network}
    torch.manual_seed(0)
    exec(OBJECTS.replace("range(400)", "range(2)"), given)
    logged = given["trainer"].generator_step(given["batches"].random_labels(16), 2)
    assert logged["g_loss"].isfinite()
