"""Initial weights of other sizes and classes: adapted exactly as timm adapts those it fetches."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import nn

from classification.recognition.network.students import build_student
from classification.recognition.settings import StudentSettings
from gan_vkd.runtime.checkpoint import save_weights
from gan_vkd.runtime.errors import VkdError

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def saved(path: Path, name: str, **options: Any) -> tuple[str, nn.Module]:
    """A file of timm's network with random weights and 9 classes, and the network."""
    torch.manual_seed(1)
    network = timm.create_model(name, num_classes=9, **options)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    torch.save({"model": network.state_dict()}, path / "theirs.pth")
    return str(path / "theirs.pth"), network


def started(name: str, weights: str, classes: int = 5, tokens: int = 0, **options: Any) -> Any:
    torch.manual_seed(2)
    settings = StudentSettings(name=name, options=options, weights=weights, drop_path=0.0)
    return build_student(settings, classes, tokens).eval()


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("deit_tiny_patch16_224", SMALL, {"img_size": 48}),
        ("deit_tiny_patch16_224", SMALL, {"img_size": 24}),
        ("deit_tiny_patch16_224", SMALL, {"patch_size": 4}),
        ("deit_tiny_distilled_patch16_224", SMALL, {"img_size": 80}),
        ("vit_tiny_patch16_224", SMALL | {"reg_tokens": 3}, {"img_size": 64}),
        ("swin_tiny_patch4_window7_224", {"img_size": 56}, {"img_size": 64, "window_size": 8}),
        ("swin_tiny_patch4_window7_224", {"img_size": 56}, {"img_size": 32, "window_size": 4}),
        ("resnet10t", {}, {}),
    ],
)
def test_every_tensor_is_that_of_timm(
    name: str, before: dict[str, Any], after: dict[str, Any], tmp_path: Path
) -> None:
    file, network = saved(tmp_path, name, **before)
    options = before | after
    tokens = 1 if "distilled" in name else 0
    ours = started(name, file, tokens=tokens, **options).network.state_dict()
    overlay = {"state_dict": network.state_dict(), "num_classes": 9}
    theirs = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=5, **options
    ).state_dict()
    assert ours.keys() == theirs.keys()
    trunk = [key for key in ours if not key.startswith(("head", "fc"))]
    assert all(torch.equal(ours[key], theirs[key]) for key in trunk)
    assert all(len(ours[key]) == 5 for key in ours.keys() - trunk)


def test_positions_are_resampled_behind_the_tokens(tmp_path: Path) -> None:
    file, network = saved(tmp_path, "deit_tiny_distilled_patch16_224", **SMALL)
    student = started("deit_tiny_distilled_patch16_224", file, tokens=1, **SMALL | {"img_size": 56})
    expected = resample_abs_pos_embed(network.pos_embed.data, [7, 7], num_prefix_tokens=2)
    assert torch.equal(student.network.pos_embed, expected)
    assert torch.equal(student.network.pos_embed[:, :2], network.pos_embed[:, :2])


def test_equal_classes_keep_the_heads_and_the_logits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, network = saved(tmp_path, "deit_tiny_distilled_patch16_224", **SMALL)
    student = started("deit_tiny_distilled_patch16_224", file, classes=9, tokens=1, **SMALL)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(student(images), network.eval()(images))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("theirs", "ours"), [(0, 1), (0, 2), (1, 0), (1, 3)])
def test_distillation_tokens_come_and_go(
    theirs: int, ours: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["deit_tiny_patch16_224", *["deit_tiny_distilled_patch16_224"] * 3]
    file, network = saved(tmp_path, names[theirs], **SMALL)
    student = started(names[ours], file, classes=9, tokens=ours, **SMALL).network
    assert torch.equal(student.pos_embed[:, :1], network.pos_embed[:, :1])
    assert torch.equal(student.pos_embed[:, 1 + ours :], network.pos_embed[:, 1 + theirs :])
    assert torch.equal(student.head.weight, network.head.weight)
    said = capsys.readouterr().out
    assert ("begin anew, for 9 classes: head_dist" in said) == (ours > 0)


def test_a_new_head_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, _ = saved(tmp_path, "deit_tiny_patch16_224", **SMALL)
    started("deit_tiny_patch16_224", file, **SMALL)
    said = capsys.readouterr().out
    assert said == f"{file}: begin anew, for 5 classes: head.weight, head.bias\n"


def test_weights_without_a_classifier_begin_with_a_new_one(tmp_path: Path) -> None:
    network = timm.create_model("deit_tiny_patch16_224", num_classes=0, **SMALL)
    save_file(network.state_dict(), tmp_path / "trunk.safetensors")
    student = started("deit_tiny_patch16_224", str(tmp_path / "trunk.safetensors"), **SMALL)
    assert torch.equal(student.network.pos_embed, network.pos_embed)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("deit_tiny_patch16_224", SMALL | {"depth": 3}),
        ("deit_tiny_patch16_224", SMALL | {"embed_dim": 48}),
        ("resnet10t", {}),
        ("swin_tiny_patch4_window7_224", {"img_size": 56}),
    ],
)
def test_another_architecture_is_a_one_line_error_that_names_the_files(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    file, _ = saved(tmp_path, "deit_tiny_patch16_224", **SMALL | {"embed_dim": 192})
    with pytest.raises(VkdError, match="weights of another network than the student") as caught:
        started(name, file, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert "theirs: student.name=deit_tiny_patch16_224, options.img_size=32" in str(caught.value)


def test_a_run_is_initial_weights_too(tmp_path: Path) -> None:
    _, network = saved(tmp_path, "deit_tiny_patch16_224", **SMALL)
    facts = {"name": "deit_tiny_patch16_224", "options": SMALL, "tokens": 0, "resolution": 32,
             "classes": ["a"] * 9, "mean": [0.5] * 3, "std": [0.5] * 3}  # fmt: skip
    save_weights(tmp_path / "student.safetensors", network.state_dict(), facts)
    student = started("deit_tiny_patch16_224", str(tmp_path), classes=9, **SMALL)
    assert torch.equal(student.network.head.weight, network.head.weight)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    file, network = saved(tmp_path, "deit_tiny_patch16_224", **SMALL)
    state = network.state_dict()
    state["norm.bias"][0] = float("nan")
    torch.save(state, file)
    with pytest.raises(VkdError, match=r"norm\.bias is not finite"):
        started("deit_tiny_patch16_224", file, **SMALL)
