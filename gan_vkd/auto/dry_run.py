"""`vkd train SETTINGS --dry-run`: what a run by settings would need."""

from pathlib import Path

from gan_vkd.auto.command import expected, needs_of
from gan_vkd.auto.estimate import estimate
from gan_vkd.auto.machine import this_machine
from gan_vkd.data.sets import load_training_set
from gan_vkd.game.settings import Settings
from gan_vkd.runtime.dry_run import Needs


def dry_run(settings: Settings, folder: Path) -> Needs:
    """Measures a few iterations; the training images are read, and nothing is written to `folder`.

    Raises:
        SettingsError, VkdError: as the run would, by its data, weights or memory.
    """
    machine = this_machine(settings.device, judged=False)
    data = load_training_set(settings.data)
    settings = settings.of_channels(data.shape.channels)
    described = f"{len(data):,} images, {len(data.classes)} classes; {machine}"
    classes, count = data.classes, len(data)
    del data  # so that the memory of both is not counted
    found = estimate(settings, classes, count, machine.device)
    lines = [described, expected(found, settings, machine), f"results: {folder}"]
    return needs_of(found, "\n".join(lines))
