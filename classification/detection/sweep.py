"""What a sweep of detection runs starts, and how its runs are read (gan_vkd.sweep)."""

import sys
from pathlib import Path

from classification.detection.config import DetectionSettings, load_settings
from gan_vkd.sweep import Program


def _is_finished(folder: Path, settings: DetectionSettings) -> bool:
    from classification.detection.training import MAY_CHANGE
    from gan_vkd.folder import RunFolder
    from gan_vkd.progress import is_finished

    return is_finished(RunFolder(folder), settings, True, MAY_CHANGE)


DETECTORS = Program([sys.executable, "-m", "classification.detection"], load_settings, _is_finished)
