"""Conversion of weights: published ViDT checkpoints, both ways, and Swin bodies of ImageNet."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from classification.detection.network.swin import SIZES, relative_position_index
from classification.detection.settings import DetectorSettings
from gan_vkd.runtime.errors import VkdError

# Prefixes of our names and of the published ones, where they differ
_PREFIXES = (
    ("body.embed.", "backbone.patch_embed."),
    ("body.det_token", "backbone.det_token"),
    ("body.det_position", "backbone.det_pos_embed"),
    ("body.stages.", "backbone.layers."),
    ("reduce_maps.", "input_proj."),
    ("reduce_det.", "tgt_proj."),
    ("reduce_position.", "query_pos_proj."),
    ("reference.", "transformer.reference_points."),
    ("neck.", "transformer.decoder.layers."),
    ("class_heads.", "class_embed."),
    ("box_heads.", "bbox_embed."),
    ("overlap_heads.", "iou_embed."),
)
_FUSED = (  # with ViDT+'s fusion
    *((f"reduce_maps.{i}.0.", f"fusion.multi_scaler.layer_{i}_rn.") for i in range(4)),
    *((f"reduce_maps.{i}.1.", f"fusion.multi_scaler.p_norm_{i}.") for i in range(4)),
    *((f"fusion.merges.{i}.", f"fusion.multi_scaler.refinenet_{i}.") for i in range(3)),
    ("fusion.coarsest.", "fusion.multi_scaler.refinenet_3.resConfUnit2."),
)
_IDLE = re.compile(
    r"backbone\.norm\d|transformer\.level_embed|.*\.downsample\.(expansion|norm2)\."
    r"|fusion\.multi_scaler\.refinenet_3\.(smoothing|resConfUnit1)\."
)
_INSIDE = (
    (".attention.position_bias", ".attn.relative_position_bias_table"),
    (".attention.", ".attn."),
    (".det_position.", ".det_pos_linear."),
    (".merge.", ".downsample."),
    (".smooth.", ".smoothing."),
    (".before.", ".resConfUnit1."),
    (".after.", ".resConfUnit2."),
)
_COPIES = "transformer.decoder.bbox_embed."  # copies of bbox_embed, which the decoder shares
_POSITION_INDEX = ".attn.relative_position_index"  # determined by the window size
# VkD's projections, which its authors save beside the student; what ViDT+ predicts tokens' labels
# and masks with, which boxes do not need
_TRAINING_ONLY = re.compile(
    r"(patch_projector_\d|body_det_projector|neck_det_projector"
    r"|transformer\.(enc_output|enc_output_norm|token_embed)|vector_embed)\."
)


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published ViDT's weights under our names; unknown names are kept.

    ViDT's authors' files, ViDT+'s without the heads that boxes do not need, and VkD's students
    without the projections beside them.
    """
    ours = {}
    for name, tensor in state.items():
        if name.startswith(_COPIES) or name.endswith(_POSITION_INDEX):
            continue
        if _TRAINING_ONLY.match(name):
            continue
        ours[_ours(name)] = tensor
    return ours


def describe(state: Mapping[str, Tensor], where: object) -> tuple[DetectorSettings, int]:
    """The settings of a whole ViDT, and its number of classes, by our names and their shapes.

    Raises:
        VkdError: not a whole ViDT, or none of a size in SIZES.
    """

    def rows(name: str, ndim: int) -> tuple[int, ...]:
        shape = state[name].shape
        if len(shape) != ndim:
            raise ValueError(name)
        return tuple(shape)

    try:
        channels = rows("body.embed.norm.weight", 1)[0]
        layers = _numbered(state, r"neck\.(\d+)\.")
        found: dict[str, Any] = {
            "queries": rows("body.det_token", 3)[1],
            "width": rows("body.det_position", 3)[2],
            "layers": layers,
            "hidden": rows("neck.0.linear1.weight", 2)[0] if layers else 1,
            "fusion": "fusion.coarsest.conv1.weight" in state,
            "iou_aware": "overlap_heads.0.layers.0.weight" in state,
            "window": window_of(rows("body.stages.0.blocks.0.attention.position_bias", 2)[0]),
        }
        classes = rows("class_heads.0.weight", 2)[0]
    except (KeyError, ValueError):
        raise VkdError(f"{where}: not a whole ViDT by its names and shapes") from None
    depths = tuple(_numbered(state, rf"body\.stages\.{i}\.blocks\.(\d+)\.") for i in range(4))
    for name, size in SIZES.items():
        if (size.channels, size.depths) == (channels, depths):
            return DetectorSettings(size=name, **found), classes  # type: ignore[arg-type]
    raise VkdError(
        f"{where}: a body of {channels} channels and {depths} blocks; known: {', '.join(SIZES)}"
    )


def window_of(rows: int) -> int:
    """The side w of the windows that a table of (2 w - 1)^2 position biases is for."""
    return (math.isqrt(rows) + 1) // 2


def _numbered(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers names have at a place, such as those of layers."""
    return len({found[1] for found in (re.match(pattern, name) for name in state) if found})


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_published`: a ViDT's weights as its authors' code saves them."""
    theirs = {}
    fused = any(name.startswith("fusion.") for name in state)
    prefixes = (*_FUSED, *_PREFIXES) if fused else _PREFIXES
    for name, tensor in state.items():
        published = _theirs(name, prefixes)
        theirs[published] = tensor
        if published.startswith("bbox_embed."):
            theirs[f"transformer.decoder.{published}"] = tensor
        if published.endswith(".attn.relative_position_bias_table"):
            theirs[published.partition(".attn.")[0] + _POSITION_INDEX] = relative_position_index(
                window_of(len(tensor))
            )
    return theirs


def _ours(name: str) -> str:
    if _IDLE.match(name):
        return f"idle.{name.replace('.', '/')}"
    for ours, theirs in (*_PREFIXES, *_FUSED):
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            break
    for ours, theirs in _INSIDE:
        name = name.replace(theirs, ours)
    return name


def _theirs(name: str, prefixes: Sequence[tuple[str, str]]) -> str:
    if name.startswith("idle."):
        return name.removeprefix("idle.").replace("/", ".")
    for ours, theirs in prefixes:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    for ours, theirs in _INSIDE:
        name = name.replace(ours, theirs)
    return name


def body_from_swin(state: Mapping[str, Tensor], merges_first: bool) -> dict[str, Tensor]:
    """A Swin classifier's weights under the names of our body, without the last norm and the head.

    Args:
        state: weights by timm, or of the authors' files.
        merges_first: whether a stage begins with merging patches, as in timm, where the merge
            between stages i and i + 1 belongs to i + 1.
    """
    body = {}
    for name, tensor in state.items():
        if name.startswith(("norm.", "head.")) or name.endswith(("_index", "attn_mask")):
            continue
        if merges_first and (found := re.match(r"layers\.(\d+)\.downsample\.", name)):
            stage = int(found[1]) - 1
            name = f"layers.{stage}.downsample.{name[found.end() :]}"
        body[_ours(f"backbone.{name}").removeprefix("body.")] = tensor
    return body
