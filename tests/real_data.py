"""Paths of real images and weights, the skip mark of tests that need them, and features."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gan_vkd.data.image_set import to_network
from gan_vkd.data.sets import load_heldout_set, load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.teachers.frozen import load_teacher
from gan_vkd.teachers.settings import NetworkSettings

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
RESNETS = {20: "resnet20-12fca82f.th", 56: "resnet56-4bfd9763.th"}


def needs_shared(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that reads real data: skipped where they are missing, and slow."""
    missing = f"real images and weights are not in {SHARED}"
    return pytest.mark.slow(pytest.mark.skipif(not SHARED.is_dir(), reason=missing)(test))


@cache
def resnet_features(depth: int) -> tuple[Tensor, Tensor]:
    """Returns features (N, 64) of 1,000 training images and of the held-out images."""
    data = SHARED / "data" / "cifar10-subset"
    settings = DataSettings(
        source=str(data / "train.zip"), heldout=str(data / "test.zip"), num_images=1000
    )
    weights = str(SHARED / "weights" / "cifar_resnet" / RESNETS[depth])
    network = NetworkSettings(name=f"cifar_resnet{depth}", weights=weights)
    teacher = load_teacher(network, 32, "cpu")
    heldout = load_heldout_set(settings)
    assert heldout is not None
    with torch.no_grad():
        features = [
            torch.cat([teacher(to_network(b)) for b in images.images.split(200)])
            for images in (load_training_set(settings), heldout)
        ]
    return features[0], features[1]


@cache
def lite_features() -> Tensor:
    """Returns features (300, 1280) of real images from EfficientNet-Lite 0 at 96 pixels."""
    data = SHARED / "data" / "cifar10-subset"
    settings = DataSettings(source=str(data / "train.zip"), num_images=300)
    weights = str(SHARED / "weights" / "efficientnet_lite" / "tf_efficientnet_lite0.safetensors")
    network = NetworkSettings(name="timm/tf_efficientnet_lite0", weights=weights, size=96)
    teacher = load_teacher(network, 32, "cpu")
    with torch.no_grad():
        parts = load_training_set(settings).images.split(100)
        return torch.cat([teacher(to_network(part)) for part in parts])
