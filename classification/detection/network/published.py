"""Weights by other names: published ViDT checkpoints, both ways, and ImageNet's Swin bodies."""

import re
from collections.abc import Mapping

from torch import Tensor

from classification.detection.network.swin import relative_places

# Where our names begin otherwise than the published ones, ours first
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
)
_INSIDE = (
    (".attention.position_bias", ".attn.relative_position_bias_table"),
    (".attention.", ".attn."),
    (".det_position.", ".det_pos_linear."),
    (".merge.", ".downsample."),
)
_COPIES = "transformer.decoder.bbox_embed."  # of bbox_embed, which the decoder shares
_PLACES = ".attn.relative_position_index"  # follows from the window's size


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published ViDT's weights under our names; what is not known is left under its own."""
    ours = {}
    for name, tensor in state.items():
        if name.startswith(_COPIES) or name.endswith(_PLACES):
            continue
        ours[_ours(name)] = tensor
    return ours


def to_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse: a ViDT's weights as its authors' code saves them."""
    theirs = {}
    for name, tensor in state.items():
        published = _theirs(name)
        theirs[published] = tensor
        if published.startswith("bbox_embed."):
            theirs[f"transformer.decoder.{published}"] = tensor
        if published.endswith(".attn.relative_position_bias_table"):
            theirs[published.partition(".attn.")[0] + _PLACES] = relative_places()
    return theirs


def _ours(name: str) -> str:
    if re.match(r"backbone\.norm\d|transformer\.level_embed", name) or re.search(
        r"\.downsample\.(expansion|norm2)\.", name
    ):
        return f"idle.{name.replace('.', '/')}"
    for ours, theirs in _PREFIXES:
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            break
    for ours, theirs in _INSIDE:
        name = name.replace(theirs, ours)
    return name


def _theirs(name: str) -> str:
    if name.startswith("idle."):
        return name.removeprefix("idle.").replace("/", ".")
    for ours, theirs in _PREFIXES:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    for ours, theirs in _INSIDE:
        name = name.replace(ours, theirs)
    return name


def body_from_swin(state: Mapping[str, Tensor], merges_first: bool) -> dict[str, Tensor]:
    """A classifier's Swin under the names of our body, without its last norm and its head.

    Args:
        state: of timm, or of the authors' files.
        merges_first: whether patches are merged at a stage's beginning, as in timm, where the
            merge between stages i and i + 1 belongs to i + 1.
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
