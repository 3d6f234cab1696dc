"""`vkd quickstart`: a complete example in minutes, without a download and on any system."""

from pathlib import Path

from gan_vkd.runtime.settings_file import load_as
from gan_vkd.teachers.teach import TeachSettings, teach

ARMS = ["quickstart", "quickstart_layernorm", "quickstart_whitening"]
FOLDER = Path("runs/quickstart")
CLASSIFIERS = {"teacher": [], "judge": ["seed=1", "depth=8"]}  # files that the settings name


def teach_classifiers() -> None:
    """Trains the teacher and the judge of the example, unless they are there.

    The judge is the network on whose features samples are compared with real images.
    """
    print(f"a teacher and a judge in {FOLDER} first, then three trainings and their table")
    for name, overrides in CLASSIFIERS.items():
        file = FOLDER / f"{name}.safetensors"
        if not file.exists():
            accuracy = teach(load_as(TeachSettings, Path("quickstart_teacher"), overrides), file)
            print(f"{file}: held-out accuracy {accuracy:.1%}" if accuracy is not None else file)
