"""The folder of a detection run, and the exported detector."""

from pathlib import Path
from typing import Any

from torch import Tensor

from classification.detection.network.build import make_detector
from classification.detection.network.published import describe, from_published, to_published
from classification.detection.network.vidt import ViDT
from classification.detection.settings import (
    CocoSettings,
    DetectionSettings,
    DetectorEvaluateSettings,
    DetectorFacts,
    DetectorSettings,
    load_settings,
)
from classification.epochs.weights import has_facts, named_tensors
from gan_vkd.networks.weights import fill, load_foreign, save_pth
from gan_vkd.runtime.checkpoint import load_weights, save_weights
from gan_vkd.runtime.errors import SettingsError, VkdError, one_line
from gan_vkd.runtime.facts import checked
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.folder import RunFolder


class Run(RunFolder):
    """Adds to the files of every run evaluations.jsonl, and detector.safetensors: the weights of
    the best detector with the facts needed to build it."""

    @property
    def detector_file(self) -> Path:
        return self.path / "detector.safetensors"

    def settings(self) -> DetectionSettings:
        return load_settings(self.path)

    def export(self, detector: ViDT, facts: dict[str, Any]) -> None:
        save_weights(self.detector_file, detector.state_dict(), facts)


def read_detector(file: Path, device: str = "cpu") -> tuple[ViDT, dict[str, Any]]:
    """Reads the detector of a run folder or of a file, in eval mode, and its facts.

    A published file is read by its names and shapes. With COCO's number of classes its categories
    are COCO's, otherwise they are numbers.

    Raises:
        VkdError: no such file, or one that is damaged, of another kind or not finite.
    """
    file = user_path(file)
    if file.is_dir():
        file = file / "detector.safetensors"
    if not file.is_file():
        raise VkdError(f"{file}: no detector yet; train first (vkd-detect train CONFIG --out RUN)")
    state, facts = _read(file)
    try:
        settings = DetectorSettings(**facts["detector"])
        detector = make_detector(settings, facts["classes"])
    except (ValueError, TypeError, RuntimeError) as error:
        reason = one_line(error)
        raise VkdError(f"{file}: not a detector of vkd-detect ({reason})") from None
    fill(detector, state, str(file))
    return detector.to(device).eval().requires_grad_(False), facts


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file's weights under our names, with the facts needed to use them."""
    if has_facts(file):
        state, facts = load_weights(file)
        return state, checked(DetectorFacts, facts, file)
    state = from_published(named_tensors(load_foreign(file), file))
    settings, classes = describe(state, file)
    categories = coco_categories() if classes == 1 + max(coco_categories()) else {}
    data, evaluate = CocoSettings.model_fields, DetectorEvaluateSettings()
    return state, {
        "detector": settings.model_dump(exclude={"weights"}),
        "classes": classes,
        "categories": {str(number): name for number, name in categories.items()},
        "numbered": True,
        "mean": list(data["mean"].default),
        "std": list(data["std"].default),
        "scale": evaluate.scale,
        "longest": evaluate.longest,
    }


def coco_categories() -> dict[int, str]:
    """COCO's 80 categories, of numbers from 1 to 90."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {i: name for i, name in enumerate(names) if name not in ("__background__", "N/A")}


def implied(file: Path, overrides: list[str]) -> list[str]:
    """The overrides that a file of weights implies: its images' size and normalisation.

    Args:
        file: as for `read_detector`.
        overrides: of the user, which take precedence.

    Raises:
        VkdError: as in `read_detector`.
    """
    _, facts = _read(user_path(file))
    items = [f"data.{key}={list(facts[key])}" for key in ("mean", "std")]
    return items + [f"evaluate.{key}={facts[key]}" for key in ("scale", "longest")]


def export_detector(run: Path, out: Path) -> str:
    """Exports the best detector of a run, or that of a file; returns a line that describes it.

    .safetensors is for `vkd-detect predict` and for student.weights or teacher.weights; .pth has
    the names of the published checkpoints, under the key "model".

    Raises:
        SettingsError: another suffix.
        VkdError: no detector.
    """
    detector, facts = read_detector(run)
    state = detector.state_dict()
    if out.suffix == ".safetensors":
        save_weights(out, state, facts)
    elif out.suffix == ".pth":
        save_pth(out, {"model": to_published(state)})
    else:
        raise SettingsError(f"{out}: expected a name that ends in .safetensors or .pth")
    return f"{out}: a ViDT {facts['detector']['size']} with {facts['classes']} classes"
