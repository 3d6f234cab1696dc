"""The folder of a detection run, and the exported detector."""

from pathlib import Path
from typing import Any

from classification.detection.network.build import make_detector
from classification.detection.network.published import to_published
from classification.detection.network.vidt import ViDT
from classification.detection.settings import (
    DetectionSettings,
    DetectorFacts,
    DetectorSettings,
    load_settings,
)
from gan_vkd.networks.weights import require_finite, save_pth
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
    """Reads the detector of a run folder or an exported file, in eval mode, and its facts.

    Raises:
        VkdError: no such file, or one that is damaged, of another kind or not finite.
    """
    file = user_path(file)
    if file.is_dir():
        file = file / "detector.safetensors"
    if not file.is_file():
        raise VkdError(f"{file}: no detector yet; train first (vkd-detect train CONFIG --out RUN)")
    state, facts = load_weights(file)
    facts = checked(DetectorFacts, facts, file)
    try:
        settings = DetectorSettings(**facts["detector"])
        detector = make_detector(settings, facts["classes"])
        detector.load_state_dict(state)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = one_line(error)
        raise VkdError(f"{file}: not a detector of vkd-detect ({reason})") from None
    require_finite(detector, file)
    return detector.to(device).eval().requires_grad_(False), facts


def export_detector(run: Path, out: Path) -> str:
    """Exports the best detector of a run; returns a line that describes the file.

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
