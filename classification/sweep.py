"""What a sweep of classification runs starts, and how its runs are read (gan_vkd.sweep)."""

import sys
from pathlib import Path

from classification.config import ClassifierSettings, load_settings
from gan_vkd.sweep import Program


def _is_finished(folder: Path, settings: ClassifierSettings) -> bool:
    from classification.training import MAY_CHANGE
    from gan_vkd.folder import RunFolder
    from gan_vkd.progress import is_finished

    return is_finished(RunFolder(folder), settings, True, MAY_CHANGE)


STUDENTS = Program([sys.executable, "-m", "classification"], load_settings, _is_finished)
