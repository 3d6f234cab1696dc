"""Students are timm's networks, read for distillation."""

from typing import Any

import pytest
import timm
import torch

from classification.recognition.network.students import build_student
from classification.recognition.settings import StudentSettings
from gan_vkd.runtime.errors import SettingsError

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}


def pair(name: str, tokens: int, **options: int):
    """Returns a student and timm's network with the same weights, both in eval mode."""
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
def test_the_forward_is_that_of_timm(name, tokens, options):
    student, theirs = pair(name, tokens, **options)
    size = options.get("img_size", 224)
    images = torch.randn(2, 3, size, size)
    torch.testing.assert_close(student(images), theirs(images))


@torch.no_grad()
def test_the_heads_are_those_of_timm_in_distilled_training():
    student, theirs = pair("deit_tiny_distilled_patch16_224", 1, **SMALL)
    images = torch.randn(2, 3, 32, 32)
    theirs.set_distilled_training(True)
    logits, distilled = theirs.train()(images)
    outputs = student.train().read(images)
    torch.testing.assert_close(outputs.logits, logits)
    torch.testing.assert_close(outputs.distilled[0], distilled)


@torch.no_grad()
def test_features_are_the_mean_of_all_tokens():
    student, theirs = pair("deit_tiny_distilled_patch16_224", 1, **SMALL)
    images = torch.randn(2, 3, 32, 32)
    tokens = theirs.forward_features(images)
    assert tokens.shape == (2, 2 + 16, 24)
    outputs = student.read(images)
    torch.testing.assert_close(outputs.features, tokens.mean(1))
    torch.testing.assert_close(outputs.patches, tokens[:, 2:].mean(1))


@torch.no_grad()
def test_each_of_several_teachers_has_a_token():
    settings = StudentSettings(options=SMALL, drop_path=0.0)
    student = build_student(settings, 7, 3, ["blocks.1"]).eval()
    images = torch.randn(2, 3, 32, 32)
    outputs = student.read(images)
    assert len(outputs.distilled) == 3
    assert outputs.early[0].shape == (2, 16, 24)  # patch tokens only
    mean = (outputs.logits + outputs.distilled[0] + outputs.distilled[1] + outputs.distilled[2]) / 4
    torch.testing.assert_close(student(images), mean)
    assert len({float(head.weight.std()) for head in student.distilled_heads}) == 3


@torch.no_grad()
def test_a_cnn_may_be_a_student():
    student, theirs = pair("resnet18", 0)
    images = torch.randn(2, 3, 64, 64)
    outputs = student.read(images)
    assert outputs.distilled == []
    torch.testing.assert_close(outputs.features, theirs.forward_features(images).mean((2, 3)))
    assert outputs.patches is outputs.features


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options", "layer", "width", "early"),
    [
        ("mobilenetv3_small_050", {}, "blocks.0", 1024, [8, 16, 16]),  # though num_features is 288
        ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2}, "layers.0", 768,
         [96, 16, 16]),  # maps are (B, H, W, C)
    ],
)  # fmt: skip
def test_widths_are_measured_by_a_forward(
    name: str, options: dict[str, Any], layer: str, width: int, early: list[int]
) -> None:
    student = build_student(StudentSettings(name=name, options=options), 7, 0, [layer]).eval()
    assert student.widths(64) == (width, early[:1])
    outputs = student.read(torch.randn(2, 3, 64, 64))
    assert outputs.features.shape == (2, width)
    assert list(outputs.early[0].shape[1:]) == early


@torch.no_grad()
def test_the_receptive_field_of_cits_stem_is_slightly_larger_than_a_patch():
    settings = StudentSettings(options=SMALL, stem="conv", drop_path=0.0)
    network = build_student(settings, 7, 1).eval().network
    images = torch.randn(1, 3, 32, 32)
    tokens = network.patch_embed(images)
    assert tokens.shape == (1, 16, 24)
    images[0, :, 16:, 16:] += 1  # the lower right quarter: patches 10, 11, 14, 15 of a 4 x 4 grid
    moved = (network.patch_embed(images) - tokens).abs().amax(2)[0] > 1e-6
    assert moved[[10, 11, 14, 15]].all()
    assert not moved[[0, 1, 2, 3, 4, 8, 12]].any()


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2])
def test_cits_distillation_tokens_are_offset_by_the_mean_of_the_patches(tokens: int) -> None:
    settings = StudentSettings(options=SMALL, stem="conv", drop_path=0.0)
    network = build_student(settings, 7, tokens).eval().network
    seen = []
    network.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network.forward_features(torch.randn(3, 3, 32, 32))
    own = network.dist_token + network.pos_embed[:, 1 : 1 + tokens]
    patches = seen[0][:, 1 + tokens :]
    torch.testing.assert_close(seen[0][:, 1 : 1 + tokens], own + patches.mean(1, True))
    assert "norm_pre" not in " ".join(network.state_dict())


def test_cits_stem_has_as_many_parameters_as_the_released_code():
    stems = [
        build_student(StudentSettings(stem=stem), 10, 1).network.patch_embed
        for stem in ("patch", "conv")
    ]
    patch, conv = (sum(x.numel() for x in stem.parameters()) for stem in stems)
    assert patch == 3 * 16**2 * 192 + 192
    assert conv == 3 * 64 * 7**2 + 2 * 64 * 64 * 3**2 + 3 * 2 * 64 + 64 * 8**2 * 192 + 192


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (StudentSettings(name="deit_tiny_patch17"), "timm has no such model; it has deit"),
        (StudentSettings(options={"num_heads": 5}), "cannot be built: "),
        (StudentSettings(name="resnet18", stem="conv"), "another stem than patch needs a ViT"),
    ],
)
def test_invalid_students_are_a_one_line_error(settings, fault):
    with pytest.raises(SettingsError, match=fault) as caught:
        build_student(settings, 10, 1)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_early_layer_is_refused():
    with pytest.raises(SettingsError, match=r"no layer 'block\.1'"):
        build_student(StudentSettings(options=SMALL), 10, 1, ["block.1"])
