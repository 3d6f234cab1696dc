"""CiT's released students, with both stems: the same outputs, trained, exported and read again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from classification.recognition.exchange import export_student
from classification.recognition.network.students import build_student
from classification.recognition.run import read_student
from classification.recognition.settings import StudentSettings, load_settings
from gan_vkd.networks.rednet import RedNet
from gan_vkd.runtime.errors import SettingsError, VkdError
from tests.classification.conftest import CONFIGS
from tests.classification.test_published import HEADS, OPTIONS, ReleasedStudent, drawn

SETTINGS = StudentSettings(options=OPTIONS, stem="cit", drop_path=0.0)


class ReleasedCiT(ReleasedStudent):
    """As the released code computes it: the tokens are the means of each stem's patches."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__(24, 8, classes, 32, depth=3)
        self.inv_embed = nn.Module()
        self.inv_embed.stem = RedNet(26).stem
        self.inv_embed.proj = nn.Conv2d(64, 24, 4, 4)
        self.pos_embed = nn.Parameter(torch.zeros(1, 3 + 16, 24))
        self.head_conv, self.head_inv = self.head_dist, nn.Linear(24, classes)
        del self.head_dist

    def forward(self, images: Tensor) -> Tensor:
        conv = self.conv_embed.proj(self.conv_embed.conv(images)).flatten(2).mT
        inv = self.inv_embed.proj(self.inv_embed.stem(images)).flatten(2).mT
        cls = self.cls_token.expand(len(images), -1, -1)
        tokens = [cls, conv.mean(1, True), inv.mean(1, True), conv + inv]
        x = self.norm(self.blocks(torch.cat(tokens, 1) + self.pos_embed))
        return (self.head(x[:, 0]) + self.head_conv(x[:, 1]) + self.head_inv(x[:, 2])) / 3


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_cits_released_students_give_the_same_logits(suffix: str, tmp_path: Path) -> None:
    theirs: Any = drawn(ReleasedCiT())
    file, again = tmp_path / "latest.pth", tmp_path / f"again.{suffix}"
    torch.save({"model": theirs.state_dict(), "epoch": 299, "max_accuracy": 82.0}, file)
    student, facts = read_student(file, given=HEADS)
    images = torch.randn(2, 3, 32, 32)
    expected = theirs(images)
    close = {"rtol": 0, "atol": 5e-6 * float(expected.abs().max())}
    torch.testing.assert_close(student(images), expected, **close)
    assert (facts["stem"], facts["tokens"], facts["resolution"]) == ("cit", 2, 32)
    assert len(facts["classes"]) == 7

    assert "CiT's stem" in export_student(file, again, HEADS)
    given = HEADS if suffix == "pth" else None
    torch.testing.assert_close(read_student(again, given=given)[0](images), expected, **close)
    with pytest.raises(SettingsError, match=r"export a \.pth"):
        export_student(file, tmp_path / "again.pth.tar", HEADS)

    settings = SETTINGS.model_copy(update={"weights": str(file)})
    initial = build_student(settings, 7, 2).eval()
    torch.testing.assert_close(initial(images), expected, **close)


def test_onnxruntime_gives_the_same_logits_for_any_number_of_images(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.save({"model": drawn(ReleasedCiT()).state_dict()}, tmp_path / "latest.pth")
    written = export_student(tmp_path / "latest.pth", tmp_path / "student.onnx", HEADS)
    assert "of torch's" in written


def test_positions_are_resized_as_those_of_timms_vits(tmp_path: Path) -> None:
    theirs = drawn(ReleasedCiT())
    torch.save({"model": theirs.state_dict()}, tmp_path / "latest.pth")
    given = {"options": OPTIONS | {"img_size": 48}, "weights": str(tmp_path / "latest.pth")}
    network = build_student(SETTINGS.model_copy(update=given), 7, 2).network
    expected = resample_abs_pos_embed(theirs.pos_embed, [6, 6], [4, 4], num_prefix_tokens=3)
    assert torch.equal(network.pos_embed, expected)


def test_each_token_depends_on_its_own_stem() -> None:
    student = build_student(SETTINGS, 7, 2)
    images = torch.randn(2, 3, 32, 32)
    outputs = student.read(images)
    assert len(outputs.distilled) == 2
    torch.stack(outputs.distilled).sum().backward()
    stems = student.network.patch_embed
    for parameter in (*stems.conv.parameters(), *stems.involution.parameters()):
        assert parameter.grad is not None
    with torch.no_grad():
        own = stems(images)[:, :2]
        stems.involution[0].conv.weight += 1
        moved = (stems(images)[:, :2] - own).abs().amax((0, 2))
    assert moved[0] == 0
    assert moved[1] > 1e-3


@pytest.mark.parametrize("teachers", [0, 1, 2])
def test_cits_student_has_two_tokens_with_any_number_of_teachers(teachers: int) -> None:
    assert len(build_student(SETTINGS, 7, teachers).distilled_heads) == 2


def test_two_stems_need_distillation_tokens() -> None:
    plain = SETTINGS.model_copy(update={"name": "deit_tiny_patch16_224"})
    with pytest.raises(VkdError, match="stem = cit needs a ViT with distillation tokens"):
        build_student(plain, 7, 2)


def test_the_settings_of_cits_released_code() -> None:
    for size, name in (("tiny", "imagenet_cit_ti"), ("small", "imagenet_cit_s")):
        settings = load_settings(CONFIGS / name)
        train, augment, token = settings.train, settings.augment, settings.objective.token
        assert settings.student.name == f"deit_{size}_distilled_patch16_224"
        assert (settings.student.stem, settings.student.drop_path) == ("cit", 0)
        teachers = [network.name.split(".")[0] for network in settings.teachers.values()]
        assert teachers == ["timm/regnety_040", "rednet101"]  # in the order of the stems
        assert token is not None
        assert (token.kind, token.weight, token.temperature) == ("soft", 1, 1)
        assert (train.epochs, train.batch_size, settings.lr) == (300, 1024, 1e-3)
        assert (train.schedule, train.warmup_epochs, train.clip_norm) == ("updates", 20, 15)
        assert (train.warmup_lr, train.min_lr, train.weight_decay) == (1e-6, 1e-5, 0.05)
        assert (train.precision, augment.repeats, augment.erasing) == ("float32", 1, 0.25)
        assert (augment.mixup, augment.cutmix, augment.smoothing) == (0.8, 1, 0.1)
