"""Weights of published students: their names, and the architecture that they belong to.

DeiT's files have timm's names. VkD's released students have CiT's stem under other names, and their
distillation token is the mean of the patches before positions are added. `MeanToTokens` takes the
mean after that and adds a learnt token: both are equal where this token is minus the mean of the
patches' positions. CiT's own students have both of its stems, and no learnt token either.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from classification.recognition.settings import (
    ClassifierEvaluateSettings,
    InputSettings,
    StudentSettings,
)
from gan_vkd.runtime.errors import SettingsError, VkdError

# CiT's stem in VkD's released code and here
_STEM = (("conv_embed.conv.", "patch_embed.proj."), ("conv_embed.proj.", "patch_embed.proj.9."))
# both stems and their tokens' heads in CiT's released code and here
_TWO_STEMS = (
    ("conv_embed.conv.", "patch_embed.conv."),
    ("conv_embed.proj.", "patch_embed.conv.9."),
    ("inv_embed.stem.", "patch_embed.involution."),
    ("inv_embed.proj.", "patch_embed.involution.5."),
    ("head_conv.", "head_dist.0."),
    ("head_inv.", "head_dist.1."),
)
_TRAINING_ONLY = "projector."  # VkD's projection, beside the student
# the projection of patches, by the stem
_PROJECTIONS = {
    "patch": "patch_embed.proj.weight",
    "conv": "patch_embed.proj.9.weight",
    "cit": "patch_embed.conv.9.weight",
}

# width: (name in DeiT, number of heads), for ViTs with 64 channels per head
_DEIT = {192: ("tiny", 3), 384: ("small", 6), 768: ("base", 12)}
_HEADS = {width: heads for width, (_, heads) in _DEIT.items()} | {1024: 16}
_VIT = {"cls_token", "pos_embed", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight",
        "head.weight"}  # fmt: skip


class Described(NamedTuple):
    """A student's architecture, and what its images are normalised and cropped by."""

    settings: StudentSettings
    tokens: int
    classes: int
    resolution: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float


def from_published(state: Mapping[str, Tensor], where: object) -> dict[str, Tensor]:
    """A published student's weights under our names, without what only its training needs.

    Raises:
        VkdError: a student with CiT's stem, whose positions have another shape.
    """
    state = {k: v for k, v in state.items() if not k.startswith(_TRAINING_ONLY)}
    if any(name.startswith("inv_embed.") for name in state):
        return {_renamed(name, *_TWO_STEMS): tensor for name, tensor in state.items()}
    if not any(name.startswith("conv_embed.") for name in state):
        return state
    positions = state.get("pos_embed", torch.empty(0))
    if positions.ndim != 3:
        raise VkdError(f"{where}: has CiT's stem, but no pos_embed of shape (1, 2 + N, d)")
    ours = {_renamed(name, *_STEM): tensor for name, tensor in state.items()}
    return ours | {"dist_token": -_mean_of_patches(positions)}


def to_vkd(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_published`, for a student with CiT's stem and one distillation token."""
    theirs = {_renamed(k, *((b, a) for a, b in reversed(_STEM))): v for k, v in state.items()}
    positions = theirs["pos_embed"].clone()
    positions[:, 1:2] += theirs.pop("dist_token") + _mean_of_patches(positions)
    return theirs | {"pos_embed": positions}


def _mean_of_patches(positions: Tensor) -> Tensor:
    """The mean (1, 1, d) of the patches' positions, behind those of two tokens."""
    return positions[:, 2:].double().mean(1, True).to(positions.dtype)


def _renamed(name: str, *prefixes: tuple[str, str]) -> str:
    for old, new in prefixes:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def describe(state: Mapping[str, Tensor], given: StudentSettings, where: object) -> Described:
    """The architecture of a state dict under our names.

    A ViT of timm's or DeiT's names is read off names and shapes; other networks are those of
    `student.name`, with the number of classes of the file.

    Args:
        state: the weights.
        given: the settings of the user; only those that are set count.
        where: the file, for messages.

    Raises:
        SettingsError: what cannot be read has to be set; the message says which setting.
    """
    named = "name" in given.model_fields_set
    return _named(state, given, where) if named else _vit(state, given, where)


def _named(state: Mapping[str, Tensor], given: StudentSettings, where: object) -> Described:
    from timm.models import get_pretrained_cfg, is_model

    try:
        cfg: Any = get_pretrained_cfg(given.name) if is_model(given.name.split(".")[0]) else None
    except RuntimeError:  # no such tag behind the "."
        cfg = None
    if cfg is None or cfg.classifier is None:
        raise SettingsError(f"student.name = {given.name}: timm has no such classifier")
    head = cfg.classifier if isinstance(cfg.classifier, str) else cfg.classifier[0]
    rows = state.get(f"{head}.weight", torch.empty(()))
    if not rows.ndim:
        raise SettingsError(
            f"{where}: has no {head}.weight, the classifier of {given.name}: set student.name"
        )
    settings = given.model_copy(update={"stem": _stem(state)})
    size, crop = cfg.test_input_size or cfg.input_size, cfg.test_crop_pct or cfg.crop_pct
    resolution = int(given.options.get("img_size", size[-1]))
    return Described(settings, _tokens(state), len(rows), resolution, cfg.mean, cfg.std, crop)


def _vit(state: Mapping[str, Tensor], given: StudentSettings, where: object) -> Described:
    stem = _stem(state)
    projection = state.get(_PROJECTIONS[stem])
    sizes = {name: state[name].shape for name in _VIT & state.keys()}
    if projection is None or projection.ndim != 4 or sizes.keys() != _VIT:
        raise SettingsError(
            f"{where}: not a ViT by its names, so that its architecture cannot be read: set "
            "student.name to timm's name of it"
        )
    if {name: len(size) for name, size in sizes.items()} != {
        name: 3 if name in ("cls_token", "pos_embed") else 2 for name in _VIT
    }:
        raise SettingsError(f"{where}: weights of another network than a ViT: set student.name")
    width, tokens = sizes["cls_token"][2], _tokens(state)
    patch = projection.shape[3] * (1 if stem == "patch" else 2)
    side = math.isqrt(max(0, sizes["pos_embed"][1] - 1 - tokens))
    name, _ = _DEIT.get(width, ("tiny", 0))
    usual = {"img_size": 224, "patch_size": 16, "depth": 12, "mlp_ratio": 4.0}
    usual |= {"embed_dim": width, "num_heads": _HEADS[width]} if width in _DEIT else {}
    found: dict[str, Any] = {
        "img_size": side * patch,
        "patch_size": patch,
        "embed_dim": width,
        "depth": len({m[1] for m in (re.match(r"blocks\.(\d+)\.", key) for key in state) if m}),
        "num_heads": _HEADS.get(width),
        "mlp_ratio": sizes["blocks.0.mlp.fc1.weight"][0] / width,
    } | {str(key): value for key, value in given.options.items()}
    if found["num_heads"] is None:
        raise SettingsError(
            f"{where}: a ViT of width {width}, whose number of heads is not in the file: set "
            "student.options.num_heads"
        )
    settings = StudentSettings.model_validate(
        {
            "name": f"deit_{name}{'_distilled' * bool(tokens)}_patch16_224",
            "options": {key: value for key, value in found.items() if usual.get(key) != value},
            "stem": stem,
        }
    )
    data = InputSettings.model_fields
    return Described(
        settings,
        tokens,
        sizes["head.weight"][0],
        found["img_size"],
        data["mean"].default,
        data["std"].default,
        ClassifierEvaluateSettings().crop,
    )


def _stem(state: Mapping[str, Tensor]) -> Any:
    return next((stem for stem in ("conv", "cit") if _PROJECTIONS[stem] in state), "patch")


def _tokens(state: Mapping[str, Tensor]) -> int:
    if _stem(state) == "cit":
        return 2
    token = state.get("dist_token")
    return 0 if token is None or token.ndim != 3 else token.shape[1]
