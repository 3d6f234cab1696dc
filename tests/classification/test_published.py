"""Files of students: published layouts, made from names and shapes, and files of this project."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import classification.recognition.teacher  # noqa: F401  (registers it)
from classification.recognition.exchange import export_student
from classification.recognition.network.students import Student, build_student
from classification.recognition.run import read_student
from classification.recognition.settings import StudentSettings
from classification.recognition.weights import given_student, implied
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.teachers.frozen import load_recogniser
from gan_vkd.teachers.interface import IMAGENET_MEAN, IMAGENET_STD
from gan_vkd.teachers.settings import NetworkSettings
from tests.real_data import SHARED, needs_shared

OPTIONS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
HEADS = given_student(["student.options.num_heads=2"])


def drawn(network: nn.Module, seed: int = 3) -> Any:
    """The network in eval mode, with all parameters and buffers drawn at random."""
    torch.manual_seed(seed)
    state = {
        name: torch.rand_like(x) + 0.5 if name.endswith("running_var") else torch.randn_like(x) / 5
        for name, x in network.state_dict().items()
        if x.is_floating_point()
    }
    network.load_state_dict(state, strict=False)
    return network.eval()


class ReleasedStudent(nn.Module):
    """VkD's released student: CiT's stem, and a distillation token that is the mean of the patches
    before positions are added. Its blocks, norm and heads are timm's."""

    def __init__(self, width: int, patch: int, classes: int, resolution: int, depth: int) -> None:
        super().__init__()
        vit = timm.create_model(
            "deit_tiny_distilled_patch16_224", num_classes=classes, img_size=resolution,
            patch_size=patch, embed_dim=width, depth=depth, num_heads=width // 64 or 2,
        )  # fmt: skip
        self.conv_embed = nn.Module()
        layers: list[nn.Module] = []
        for before, size, stride in ((3, 7, 2), (64, 3, 1), (64, 3, 1)):
            conv = nn.Conv2d(before, 64, size, stride, size // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(64), nn.ReLU()]
        self.conv_embed.conv = nn.Sequential(*layers)
        self.conv_embed.proj = nn.Conv2d(64, width, patch // 2, patch // 2)
        self.cls_token, self.pos_embed = vit.cls_token, vit.pos_embed
        self.blocks, self.norm, self.head, self.head_dist = (
            vit.blocks, vit.norm, vit.head, vit.head_dist,
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        patches = self.conv_embed.proj(self.conv_embed.conv(images)).flatten(2).mT
        cls = self.cls_token.expand(len(images), -1, -1)
        x = torch.cat([cls, patches.mean(1, True), patches], 1) + self.pos_embed
        x = self.norm(self.blocks(x))
        return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2

    def saved(self) -> dict[str, Any]:
        """A checkpoint as its authors' training writes it, with the projection beside."""
        projection = nn.utils.parametrizations.orthogonal(nn.Linear(8, 12, bias=False))
        weights = self.state_dict() | {
            f"projector.{name}": value for name, value in projection.state_dict().items()
        }
        student = {f"module.{name}": value for name, value in weights.items()}
        return {"student": student, "student_ema": None, "optimizer": {"state": {}}, "epoch": 3}


@torch.no_grad()
@pytest.mark.parametrize(("width", "resolution"), [(192, 224), (24, 32)])
def test_vkds_released_students_give_the_same_logits(
    width: int, resolution: int, tmp_path: Path
) -> None:
    patch = 16 if width == 192 else 8
    theirs = drawn(ReleasedStudent(width, patch, 7, resolution, depth=2))
    file = tmp_path / "latest.pth.tar"
    torch.save(theirs.saved(), file)
    student, facts = read_student(file, given=None if width == 192 else HEADS)
    images = torch.randn(2, 3, resolution, resolution)
    expected = theirs(images)
    torch.testing.assert_close(student(images), expected, rtol=0, atol=5e-6 * expected.abs().max())
    assert (facts["stem"], facts["tokens"], facts["resolution"]) == ("conv", 1, resolution)
    assert facts["numbered"]
    assert len(facts["classes"]) == 7

    # and back: the layout has the names and shapes of theirs, and the same logits again
    export_student(file, tmp_path / "back.pth.tar", None if width == 192 else HEADS)
    back = torch.load(tmp_path / "back.pth.tar", weights_only=True)["student"]
    theirs.load_state_dict({name.removeprefix("module."): x for name, x in back.items()})
    torch.testing.assert_close(theirs(images), expected, rtol=0, atol=5e-6 * expected.abs().max())


def test_a_released_student_is_the_initial_weights_of_a_student(tmp_path: Path) -> None:
    theirs = drawn(ReleasedStudent(24, 8, 7, 32, depth=3))
    torch.save(theirs.saved(), tmp_path / "latest.pth.tar")
    weights = str(tmp_path / "latest.pth.tar")
    settings = StudentSettings(options=OPTIONS, stem="conv", weights=weights)
    student = build_student(settings, 7, 1).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(student(images), theirs(images), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    ("name", "options", "given"),
    [
        ("deit_tiny_patch16_224", {"depth": 2}, []),
        ("deit_small_distilled_patch16_224", {"depth": 1, "img_size": 64}, []),
        ("deit_tiny_patch16_224", OPTIONS | {"mlp_ratio": 2.0}, ["student.options.num_heads=2"]),
        ("resnet10t", {}, ["student.name=resnet10t"]),
        ("mobilenetv3_small_050", {}, ["student.name=mobilenetv3_small_050"]),
    ],
)
def test_files_with_timms_names_are_read(
    name: str, options: dict[str, Any], given: list[str], suffix: str, tmp_path: Path
) -> None:
    theirs = drawn(timm.create_model(name, num_classes=9, **options))
    file = tmp_path / f"theirs.{suffix}"
    if suffix == "pth":
        torch.save({"model": theirs.state_dict()}, file)
    else:
        save_file(theirs.state_dict(), file)
    student, facts = read_student(file, given=given_student(given))
    size = facts["resolution"]
    assert size == options.get("img_size", 224)
    images = torch.randn(2, 3, size, size)
    torch.testing.assert_close(student(images), theirs(images))
    assert student.network.state_dict().keys() == theirs.state_dict().keys()


@torch.no_grad()
@pytest.mark.parametrize("name", ["vkd", "mobilenetv3_small_050"])
def test_a_student_is_a_teacher(name: str, tmp_path: Path) -> None:
    released = name == "vkd"
    theirs = drawn(
        ReleasedStudent(192, 16, 5, 64, depth=1)
        if released
        else timm.create_model(name, num_classes=5)
    )
    torch.save(theirs.saved() if released else theirs.state_dict(), tmp_path / "theirs.pth")
    settings = NetworkSettings(
        name="student" if released else f"student/{name}", weights=str(tmp_path / "theirs.pth")
    )
    teacher = load_recogniser(settings, 64 if released else 224, "cpu")
    images = torch.rand(2, 3, *[64 if released else 224] * 2) * 2 - 1
    logits, features = teacher.read(images)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(logits, theirs(((images + 1) / 2 - mean) / std))
    assert features.shape == (2, 192 if released else 1024)


@torch.no_grad()
def test_files_of_several_tokens_are_read(tmp_path: Path) -> None:
    settings = StudentSettings(options=OPTIONS, stem="conv", drop_path=0.0)
    ours: Student = drawn(build_student(settings, 7, 2))
    torch.save(ours.network.state_dict(), tmp_path / "ours.pth")
    student, facts = read_student(tmp_path / "ours.pth", given=HEADS)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(student(images), ours(images))
    assert facts["tokens"] == 2
    with pytest.raises(SettingsError, match="have CiT's stem and one distillation token"):
        export_student(tmp_path / "ours.pth", tmp_path / "x.pth.tar", HEADS)


def test_an_exported_file_has_its_architecture_with_it(tmp_path: Path) -> None:
    network = drawn(timm.create_model("resnet10t", num_classes=4))
    torch.save(network.state_dict(), tmp_path / "theirs.pth")
    given = given_student(["student.name=resnet10t"])
    export_student(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", given)
    facts = read_student(tmp_path / "ours.safetensors")[1]
    assert facts["numbered"]
    assert facts["classes"] == ["0", "1", "2", "3"]
    with pytest.raises(SettingsError, match=r"has its architecture with it: leave out student\.\*"):
        read_student(tmp_path / "ours.safetensors", given=given)


def test_a_file_implies_how_its_images_are_normalised(tmp_path: Path) -> None:
    name = "tf_efficientnet_lite0"
    torch.save(timm.create_model(name, num_classes=3).state_dict(), tmp_path / "theirs.pth")
    items = implied(tmp_path / "theirs.pth", [f"student.name={name}"])
    assert items == ["data.resolution=224", "data.mean=[0.5, 0.5, 0.5]", "data.std=[0.5, 0.5, 0.5]",
                     "evaluate.crop=0.875"]  # fmt: skip


@needs_shared
@torch.no_grad()
def test_a_real_file_of_timms_names_gives_timms_logits() -> None:
    file = SHARED / "weights/efficientnet_lite/tf_efficientnet_lite0.safetensors"
    name = "tf_efficientnet_lite0"
    theirs = timm.create_model(name)
    theirs.load_state_dict(load_file(file))
    student, facts = read_student(file, given=given_student([f"student.name={name}"]))
    assert (len(facts["classes"]), facts["mean"]) == (1000, [0.5, 0.5, 0.5])
    images = torch.rand(2, 3, 224, 224) * 2 - 1
    torch.testing.assert_close(student(images), theirs.eval()(images))


FAULTS = [
    ({"conv1.weight": torch.ones(1)}, [], "not a ViT by its names.*set student.name"),
    ({"fc.weight": torch.ones(3, 2)}, ["student.name=resnet18"], "weights of another network"),
    ({"a": torch.ones(3, 2)}, ["student.name=resnet18"], r"has no fc\.weight"),
    ({"a": torch.ones(1)}, ["student.name=resnet17"], "timm has no such classifier"),
    ({"a": torch.ones(1)}, ["student.name=resnet50.x"], "timm has no such classifier"),
    ({"inv_embed.proj.weight": torch.ones(1)}, [], "not a ViT by its names.*set student.name"),
    ({"conv_embed.proj.weight": torch.ones(1)}, [], "CiT's stem, but no pos_embed"),
    ({"student": {"module.a": 3}}, [], "not a network's weights"),
    ({"epoch": 3}, [], "not a network's weights"),
    ({}, [], "not a network's weights"),
]


@pytest.mark.parametrize(("saved", "given", "fault"), FAULTS)
def test_what_cannot_be_read_is_one_line(
    saved: dict[str, Any], given: list[str], fault: str, tmp_path: Path
) -> None:
    torch.save(saved, tmp_path / "odd.pth")
    with pytest.raises(VkdError, match=fault) as caught:
        read_student(tmp_path / "odd.pth", given=given_student(given))
    assert len(str(caught.value).splitlines()) == 1


def test_the_number_of_heads_of_an_unusual_width_has_to_be_set(tmp_path: Path) -> None:
    network = timm.create_model("deit_tiny_patch16_224", num_classes=3, **OPTIONS)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    with pytest.raises(SettingsError, match=r"width 24, .*set student\.options\.num_heads"):
        read_student(tmp_path / "own.pth")
    odd = network.state_dict() | {"cls_token": torch.ones(24)}
    torch.save(odd, tmp_path / "odd.pth")
    with pytest.raises(SettingsError, match="another network than a ViT"):
        read_student(tmp_path / "odd.pth")
