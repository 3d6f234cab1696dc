"""Students are timm's networks, read for distillation."""

import pytest
import timm
import torch

from classification.config import StudentSettings
from classification.students import build_student
from gan_vkd.errors import SettingsError

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}


def pair(name: str, tokens: int, **options: int):
    """A student and timm's network of the same weights, both in eval mode."""
    torch.manual_seed(0)
    settings = StudentSettings(name=name, options=options, drop_path=0.0)
    student = build_student(settings, 7, tokens).eval()
    theirs = timm.create_model(name, num_classes=7, **options).eval()
    theirs.load_state_dict(student.network.state_dict())
    return student, theirs


@pytest.mark.parametrize(
    ("name", "tokens", "options"),
    [
        ("deit_tiny_distilled_patch16_224", 1, {}),
        ("deit_tiny_patch16_224", 0, {}),
        ("deit_small_distilled_patch16_224", 1, SMALL),
        ("vit_tiny_patch16_224", 0, SMALL),
        ("resnet18", 0, {}),
    ],
)
@torch.no_grad()
def test_the_forward_is_timms(name, tokens, options):
    student, theirs = pair(name, tokens, **options)
    size = options.get("img_size", 224)
    images = torch.randn(2, 3, size, size)
    torch.testing.assert_close(student(images), theirs(images))


@torch.no_grad()
def test_the_heads_are_timms_in_distilled_training():
    student, theirs = pair("deit_tiny_distilled_patch16_224", 1, **SMALL)
    images = torch.randn(2, 3, 32, 32)
    theirs.set_distilled_training(True)
    logits, distilled = theirs.train()(images)
    said = student.train().read(images)
    torch.testing.assert_close(said.logits, logits)
    torch.testing.assert_close(said.distilled[0], distilled)


@torch.no_grad()
def test_features_are_the_mean_of_all_tokens():
    student, theirs = pair("deit_tiny_distilled_patch16_224", 1, **SMALL)
    images = torch.randn(2, 3, 32, 32)
    tokens = theirs.forward_features(images)
    assert tokens.shape == (2, 2 + 16, 24)
    torch.testing.assert_close(student.read(images).features, tokens.mean(1))


@torch.no_grad()
def test_a_token_for_each_teacher_of_several():
    settings = StudentSettings(options=SMALL, drop_path=0.0)
    student = build_student(settings, 7, 3, ["blocks.1"]).eval()
    said = student.read(torch.randn(2, 3, 32, 32))
    assert len(said.distilled) == 3
    assert said.early[0].shape == (2, 16, 24)  # the patches alone
    mean = (said.logits + sum(said.distilled)) / 4
    images = torch.randn(2, 3, 32, 32)
    said = student.read(images)
    mean = (said.logits + said.distilled[0] + said.distilled[1] + said.distilled[2]) / 4
    torch.testing.assert_close(student(images), mean)
    assert len({float(head.weight.std()) for head in student.distilled_heads}) == 3


@torch.no_grad()
def test_a_cnn_is_a_student_too():
    student, theirs = pair("resnet18", 0)
    images = torch.randn(2, 3, 64, 64)
    said = student.read(images)
    assert said.distilled == []
    torch.testing.assert_close(said.features, theirs.forward_features(images).mean((2, 3)))


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (StudentSettings(name="deit_tiny_patch17"), "timm has no such model; it has deit"),
        (StudentSettings(options={"image_sise": 3}), "cannot be built so"),
        (StudentSettings(options={"num_heads": 5}), "cannot be built so"),
    ],
)
def test_students_that_cannot_be_are_one_line(settings, fault):
    with pytest.raises(SettingsError, match=fault) as caught:
        build_student(settings, 10, 1)
    assert len(str(caught.value).splitlines()) == 1


def test_an_early_layer_that_is_not_there():
    with pytest.raises(SettingsError, match=r"no layer 'block\.1'"):
        build_student(StudentSettings(options=SMALL), 10, 1, ["block.1"])
