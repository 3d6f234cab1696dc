"""Feature maps and measures of students against their definitions."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from classification.recognition.features import (
    attention_maps,
    equivariance,
    look,
    patches,
    procrustes,
    similarity_maps,
)
from classification.recognition.network.students import Student, build_student
from classification.recognition.settings import StudentSettings
from classification.recognition.training import train
from gan_vkd.runtime.errors import SettingsError
from tests.classification.conftest import MakeStudent

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}


@pytest.fixture
def student() -> Student:
    torch.manual_seed(0)
    return build_student(StudentSettings(options=SMALL, drop_path=0.0), 10, 1).eval()


def test_procrustes_finds_the_orthogonal_map() -> None:
    torch.manual_seed(0)
    frame = torch.linalg.qr(torch.randn(9, 5, dtype=torch.float64)).Q
    features = torch.randn(200, 5)
    found = procrustes(features, features @ frame.float().T)
    torch.testing.assert_close(found, frame, atol=1e-5, rtol=0)
    wide = procrustes(torch.randn(50, 9), torch.randn(50, 5))
    torch.testing.assert_close(wide @ wide.T, torch.eye(5, dtype=torch.float64))


@torch.no_grad()
def test_attention_maps_are_those_of_the_block(student: Student) -> None:
    """The mean over heads of softmax(q k^T / sqrt(d)): the class token's row, patch columns."""
    images = torch.randn(2, 3, 32, 32)
    maps = attention_maps(student, images)
    assert maps is not None
    assert maps.shape == (2, 4, 4)
    attention = student.network.blocks[-1].attn
    seen: list[torch.Tensor] = []
    attention.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    student(images)
    x = seen[0]
    q, k, _ = attention.qkv(x).split(24, dim=2)
    slow = torch.zeros(2, 16)
    for b in range(2):
        for head in range(2):
            part = slice(12 * head, 12 * head + 12)
            scores = torch.stack([q[b, 0, part] @ k[b, j, part] / 12**0.5 for j in range(18)])
            slow[b] += scores.softmax(0)[2:] / 2
    torch.testing.assert_close(maps.flatten(1), slow)


class Read(nn.Module):
    """Stands in for a teacher: reads logits and a feature from images (B, 3, 32, 32) in [-1, 1]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(3, width)

    def read(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images.mean((2, 3)), 5 * self.map(images.mean((2, 3)))]


@torch.no_grad()
@pytest.mark.parametrize("std", [[1.0, 1.0, 1.0], [0.2, 0.3, 0.4]])
def test_rotated_teacher_features_have_similarity_one(std: list[float], tiny: MakeStudent) -> None:
    """Cosine 1 at each patch, with the layer-normed feature of the unnormalised images."""
    torch.manual_seed(0)
    settings = tiny("data.mean=[0.5, 0.4, 0.3]", f"data.std={std}")
    teacher, frame = Read(9), torch.linalg.qr(torch.randn(9, 9)).Q
    mean, deviation = (torch.tensor(x).view(1, 3, 1, 1) for x in (settings.data.mean, std))

    class Turned(Convolution):
        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            feature = teacher.read((x * deviation + mean) * 2 - 1)[1]
            tokens = nn.functional.layer_norm(feature, (9,)) @ frame
            return tokens[:, :, None, None].expand(-1, -1, 4, 4)

    normalised = (torch.rand(40, 3, 32, 32) - mean) / deviation
    maps = similarity_maps(
        Student(Turned()).eval(), teacher, normalised[:5], normalised, settings
    )  # fmt: skip
    torch.testing.assert_close(maps, torch.ones(5, 4, 4))


def test_networks_without_attention_have_no_attention_map() -> None:
    network = build_student(StudentSettings(name="resnet18"), 10, 0).eval()
    assert attention_maps(network, torch.randn(1, 3, 64, 64)) is None


class Convolution(nn.Module):
    """A network equivariant to cyclic shifts by whole strides; its pooled feature is invariant."""

    num_features = 5

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 4, 4)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return x.mean((2, 3))


@torch.no_grad()
def test_a_convolution_is_equivariant_and_a_vit_is_not(student: Student) -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    moved = equivariance(Student(Convolution()).eval(), images)
    assert list(moved["patches"]) == ["4", "8", "12", "16"]
    assert all(value == pytest.approx(1, abs=1e-5) for value in moved["patches"].values())
    assert moved["pooled"]["8"] == pytest.approx(1, abs=1e-5)
    assert max(equivariance(student, images)["patches"].values()) < 0.999
    assert patches(student, images).shape == (4, 4, 4, 24)


def test_the_figures_of_two_runs(tiny: MakeStudent, tmp_path: Path) -> None:
    folders = []
    for arm in ("plain", "vkd"):
        train(tiny("train.epochs=1", arm=arm), tmp_path / arm)
        folders.append(tmp_path / arm)
    files = look(folders, tmp_path / "figures", 4, "cpu")
    assert [file.name for file in files] == [
        "similarity.png", "attention.png", "equivariance.png", "equivariance.json",
    ]  # fmt: skip
    for file in files[:3]:
        with Image.open(file) as picture:
            assert picture.width > 200
    measured = json.loads(files[3].read_text())
    assert list(measured) == ["plain, seed 0", "vkd, seed 0"]
    assert -1 <= measured["vkd, seed 0"]["patches"]["8"] <= 1


def test_runs_with_different_data_settings_are_refused(tiny: MakeStudent, tmp_path: Path) -> None:
    train(tiny("train.epochs=1", arm="plain"), tmp_path / "a")
    train(tiny("train.epochs=1", "data.mean=[0.5, 0.5, 0.5]", arm="vkd"), tmp_path / "b")
    with pytest.raises(SettingsError, match="differ in their data settings"):
        look([tmp_path / "a", tmp_path / "b"], tmp_path / "figures", 4, "cpu")
