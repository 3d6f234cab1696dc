"""Detectors by settings, and the weights they start from."""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classification.detection.config import DetectorSettings
from classification.detection.published import body_from_swin, from_published
from classification.detection.vidt import ViDT
from gan_vkd.errors import VkdError, one_line
from gan_vkd.teachers import load_foreign
from gan_vkd.teachers import load_weights as load_strictly

# timm's names of the bodies trained on ImageNet (base: on its 22,000 classes, as published)
TIMM = {
    "tiny": "swin_tiny_patch4_window7_224.ms_in1k",
    "small": "swin_small_patch4_window7_224.ms_in1k",
    "base": "swin_base_patch4_window7_224.ms_in22k",
}
# Of ViDT's authors, who give no checksums; timm has no nano
RELEASES = "https://github.com/naver-ai/vidt/releases/download"
NANO = f"{RELEASES}/v0.1-swin/swin_nano_patch4_window7_224.pth"
PUBLISHED = f"{RELEASES}/v0.1-vidt/vidt_{{size}}_50.pth"


def make_detector(settings: DetectorSettings, classes: int) -> ViDT:
    """A ViDT of the settings, from random weights."""
    return ViDT(
        settings.size,
        classes,
        queries=settings.queries,
        width=settings.width,
        layers=settings.layers,
        hidden=settings.hidden,
        dropout=settings.dropout,
        drop_path=settings.drop_path,
    )


def load_detector(settings: DetectorSettings, classes: int, teacher: bool = False) -> ViDT:
    """A ViDT of the settings, with the weights they name.

    A ViDT fills all of it; a Swin classifier fills the body of a student, except for what [DET]
    tokens add.

    Raises:
        VkdError: weights that are missing, cannot be fetched or do not fit; a teacher's without
            its neck.
    """
    detector = make_detector(settings, classes)
    if settings.weights is None:
        return detector
    if settings.weights in ("published", "imagenet"):
        saved, where = _fetch(settings.size, settings.weights), settings.weights
    else:
        path = Path(settings.weights).expanduser()
        path = path / "detector.safetensors" if path.is_dir() else path
        saved, where = load_foreign(path), str(path)
    for wrapper in ("model", "state_dict"):
        saved = saved.get(wrapper, saved) if isinstance(saved, dict) else {}
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in saved.items()):
        raise VkdError(f"{where}: not a network's weights, each a tensor with a name")
    if any(name.startswith("body.") for name in saved):
        load_strictly(detector, saved, where)
    elif any(name.startswith("backbone.") for name in saved):
        load_strictly(detector, from_published(saved), where)
    elif teacher:
        raise VkdError(f"{where}: a body without a neck cannot teach; give a whole ViDT's weights")
    else:
        merges_first = "layers.0.downsample.reduction.weight" not in saved
        own = detector.body.state_dict()
        added = {k: v for k, v in own.items() if "det_" in k or k.startswith("stages.3.merge")}
        load_strictly(detector.body, added | body_from_swin(saved, merges_first), where)
    return detector


def _fetch(size: str, what: str) -> dict[str, Any]:
    name = PUBLISHED.format(size=size) if what == "published" else TIMM.get(size, NANO)
    try:
        if not name.startswith("https:"):
            import timm

            return dict(timm.create_model(name, pretrained=True).state_dict())
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.hub.load_state_dict_from_url(name, map_location="cpu", weights_only=True)
    except Exception as error:  # hub and network errors of many kinds
        reason = one_line(error)
        raise VkdError(
            f"the {what} weights of size {size} could not be fetched ({name}: {reason}); set "
            "`weights` beside its size to a local copy"
        ) from None
