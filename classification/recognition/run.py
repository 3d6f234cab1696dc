"""The folder of a classification run, and the exported student."""

from pathlib import Path
from typing import Any

from torch import Tensor

from classification.recognition.network.students import Student, build_student
from classification.recognition.settings import (
    ClassifierSettings,
    StudentSettings,
    load_settings,
)
from classification.recognition.weights import read_weights
from gan_vkd.networks.weights import fill
from gan_vkd.runtime.checkpoint import save_weights
from gan_vkd.runtime.errors import VkdError, one_line
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.folder import RunFolder


class Run(RunFolder):
    """Adds to the files of every run evaluations.jsonl, and student.safetensors: the weights of the
    best student under timm's names, with the facts needed to build it."""

    @property
    def student_file(self) -> Path:
        return self.path / "student.safetensors"

    def settings(self) -> ClassifierSettings:
        return load_settings(self.path)

    def export(self, student: Student, facts: dict[str, Any]) -> None:
        save_weights(self.student_file, student.network.state_dict(), facts)


def read_student(
    file: Path, device: str = "cpu", given: StudentSettings | None = None
) -> tuple[Student, dict[str, Any]]:
    """Reads the student of a run folder or of a file, in eval mode, and its facts.

    Args:
        file: a run folder, an exported file, or a published one.
        device: where the student is put.
        given: as in `read_weights`, for files without facts.

    Raises:
        SettingsError: as in `read_weights`.
        VkdError: no such file, or one that is damaged, of another kind or not finite.
    """
    file = user_path(file)
    if file.is_dir():
        file = file / "student.safetensors"
    if not file.is_file():
        raise VkdError(f"{file}: no student yet; train first (vkd-classify train CONFIG --out RUN)")
    state, facts = read_weights(file, given)
    return built_student(state, facts, file).to(device), facts


def built_student(state: dict[str, Tensor], facts: dict[str, Any], file: Path) -> Student:
    """Builds a frozen student of checked facts with its weights, in eval mode.

    Raises:
        VkdError: weights of another network, or not finite.
    """
    try:
        settings = StudentSettings(name=facts["name"], options=facts["options"], stem=facts["stem"])
        student = build_student(settings, len(facts["classes"]), facts["tokens"], drop_path=0.0)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = one_line(error)
        raise VkdError(f"{file}: not a student of vkd-classify ({reason})") from None
    fill(student.network, state, str(file))
    return student.eval().requires_grad_(False)
