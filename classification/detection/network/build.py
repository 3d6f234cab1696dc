"""Detectors by settings, and their initial weights."""

import argparse
import warnings
from typing import Any

import torch
from timm.layers import resize_rel_pos_bias_table
from torch import Tensor, nn

from classification.detection.network.published import body_from_swin, from_published, window_of
from classification.detection.network.vidt import ViDT
from classification.detection.settings import DetectorSettings
from classification.epochs.weights import named_tensors
from gan_vkd.networks.weights import fill, load_foreign
from gan_vkd.runtime.bars import on_terminal
from gan_vkd.runtime.errors import VkdError, one_line
from gan_vkd.runtime.files import user_path

# timm's names of bodies trained on ImageNet (base: on its 22,000 classes, as published)
TIMM = {
    "tiny": "swin_tiny_patch4_window7_224.ms_in1k",
    "small": "swin_small_patch4_window7_224.ms_in1k",
    "base": "swin_base_patch4_window7_224.ms_in22k",
}
# By ViDT's authors, who publish no checksums; timm has no nano
RELEASES = "https://github.com/naver-ai/vidt/releases/download"
NANO = f"{RELEASES}/v0.1-swin/swin_nano_patch4_window7_224.pth"
PUBLISHED = {
    "published": f"{RELEASES}/v0.1-vidt/vidt_{{size}}_50.pth",
    "published_150": f"{RELEASES}/v0.1-vidt/vidt_{{size}}_150.pth",
}
SOURCES = (*PUBLISHED, "imagenet")


def make_detector(settings: DetectorSettings, classes: int) -> ViDT:
    """Builds the ViDT of the settings, with random weights."""
    return ViDT(
        settings.size,
        classes,
        queries=settings.queries,
        width=settings.width,
        layers=settings.layers,
        hidden=settings.hidden,
        dropout=settings.dropout,
        drop_path=settings.drop_path,
        fusion=settings.fusion,
        iou_aware=settings.iou_aware,
        window=settings.window,
    )


def load_detector(settings: DetectorSettings, classes: int, teacher: bool = False) -> ViDT:
    """Builds the ViDT of the settings, with the weights that they name.

    A ViDT's weights fill the whole network; a Swin classifier's fill the body of a student, except
    for the parameters of [DET] tokens. Where the weights have another number of classes, a student
    gets new class heads; a teacher keeps its own, which are not used. Tables of relative positions
    are resized where the windows differ.

    Raises:
        VkdError: weights that are missing, cannot be fetched or do not fit; or a teacher's without
            a neck.
    """
    if settings.weights is None:
        return make_detector(settings, classes)
    saved, where = _read(settings)
    if any(name.startswith(("body.", "backbone.")) for name in saved):
        foreign = not any(name.startswith("body.") for name in saved)
        return _fill(settings, from_published(saved) if foreign else saved, where, classes, teacher)
    if teacher:
        raise VkdError(f"{where}: has no neck, which a teacher needs; set a whole ViDT's weights")
    detector = make_detector(settings, classes)
    merges_first = "layers.0.downsample.reduction.weight" not in saved
    own = detector.body.state_dict()
    added = {k: v for k, v in own.items() if "det_" in k or k.startswith("stages.3.merge")}
    body = _resized(body_from_swin(saved, merges_first), detector.body)
    fill(detector.body, added | body, where)
    return detector


def _fill(
    settings: DetectorSettings, saved: dict[str, Tensor], where: str, classes: int, teacher: bool
) -> ViDT:
    heads = {name: weights for name, weights in saved.items() if name.startswith("class_heads.")}
    sizes = [len(weights) for weights in heads.values() if weights.ndim]
    theirs = sizes[0] if sizes else classes
    detector = make_detector(settings, theirs if teacher else classes)
    if theirs != classes and not teacher:
        print(f"{where}: has {theirs} classes; the heads of {classes} classes are initialised anew")
        saved = saved | {name: detector.state_dict()[name] for name in heads}
    fill(detector, _resized(saved, detector), where)
    return detector


def _resized(saved: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The weights, with tables of relative positions for the network's windows, as timm's Swin."""
    own, state = network.state_dict(), dict(saved)
    for name, table in saved.items():
        if not name.endswith(".position_bias") or name not in own or table.ndim != 2:
            continue
        if table.shape[0] != own[name].shape[0] and table.shape[1] == own[name].shape[1]:
            window = window_of(len(own[name]))
            with warnings.catch_warnings(action="ignore"):  # of torch, about the interpolation
                state[name] = resize_rel_pos_bias_table(table, (window, window), own[name].shape)
    return state


def _read(settings: DetectorSettings) -> tuple[dict[str, Tensor], str]:
    """The weights that the settings name, and their name in messages."""
    if settings.weights in SOURCES:
        saved, where = _fetch(settings.size, settings.weights), settings.weights
    else:
        path = user_path(str(settings.weights))
        path = path / "detector.safetensors" if path.is_dir() else path
        saved, where = load_foreign(path), str(path)
    return named_tensors(saved, where), where


def _fetch(size: str, source: str) -> dict[str, Any]:
    name = PUBLISHED.get(source, TIMM.get(size, NANO)).format(size=size)
    try:
        if not name.startswith("https:"):
            import timm

            return dict(timm.create_model(name, pretrained=True).state_dict())
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.hub.load_state_dict_from_url(
                name, map_location="cpu", weights_only=True, progress=on_terminal()
            )
    except Exception as error:  # hub and network errors of many kinds
        reason = one_line(error)
        raise VkdError(
            f"the {source} weights of size {size} could not be fetched ({name}: {reason}); set "
            "`weights` beside its size to a local copy"
        ) from None
