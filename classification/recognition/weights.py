"""Students in files: of this project with their facts, and published ones.

A file without facts is a ViT whose architecture is read off its names and shapes, or the network of
`student.name`. Its classes are numbers.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from classification.epochs.weights import has_facts, named_tensors
from classification.recognition.network.published import describe, from_published
from classification.recognition.settings import (
    ClassifierEvaluateSettings,
    ClassifierSettings,
    StudentFacts,
    StudentSettings,
    load_settings,
)
from gan_vkd.networks.weights import load_foreign
from gan_vkd.runtime.checkpoint import load_weights
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.facts import checked
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings_file import load_as, merged

IMAGES = Path("imagenet")  # the settings that a file is measured with, where none are given


class _Given(Section):
    """What is set about the student alone, before its file is known."""

    arm: Any = None
    data: Any = None
    student: StudentSettings = StudentSettings()


def read_weights(
    file: Path, given: StudentSettings | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a file of a student's weights under our names, with the facts needed to build it.

    Args:
        file: of this project or published, torch or safetensors.
        given: settings of the student, for files without facts; only those that are set count.

    Raises:
        SettingsError: an architecture that cannot be read and is not set, or that is set for a file
            with facts.
        VkdError: the file is missing, damaged or no student's.
    """
    given = given or StudentSettings()
    if has_facts(file):
        if given.model_fields_set:
            raise SettingsError(f"{file}: has its architecture with it: leave out student.*")
        state, facts = load_weights(file)
        return state, checked(StudentFacts, facts, file)
    state = from_published(named_tensors(load_foreign(file), file), file)
    found = describe(state, given, file)
    return state, {
        "name": found.settings.name,
        "options": found.settings.options,
        "stem": found.settings.stem,
        "tokens": found.tokens,
        "classes": [str(number) for number in range(found.classes)],
        "numbered": True,
        "resolution": found.resolution,
        "mean": list(found.mean),
        "std": list(found.std),
        "crop": found.crop,
    }


def given_student(overrides: list[str]) -> StudentSettings:
    """The settings of the student among overrides.

    Raises:
        SettingsError: an unknown key or an invalid value.
    """
    own = [item for item in overrides if item.startswith(("student.", "student="))]
    return load_as(_Given, IMAGES, own).student


def implied(file: Path, overrides: list[str]) -> list[str]:
    """The overrides that a file of weights implies: its images' size, normalisation and crop.

    Args:
        file: as for `read_weights`.
        overrides: of the user, which take precedence.

    Raises:
        SettingsError, VkdError: as in `read_weights`.
    """
    _, facts = read_weights(user_path(file), given_student(overrides))
    items = [f"data.{key}={json.dumps(facts[key])}" for key in ("resolution", "mean", "std")]
    if merged(IMAGES, overrides)["data"].get("kind") != "memory":
        usual = ClassifierEvaluateSettings().crop
        items.append(f"evaluate.crop={facts.get('crop', usual)}")
    return items


def settings_of(file: Path, overrides: list[str]) -> ClassifierSettings:
    """The settings that a file of weights is measured with."""
    return load_settings(IMAGES, [*implied(file, overrides), *overrides])
