"""`--dry-run` of recognition and detection: what a run by epochs would need."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from classification.epochs.settings import EpochRunSettings
from classification.epochs.task import EpochTask
from gan_vkd.runtime.checkpoint import save_state
from gan_vkd.runtime.devices import pick_device
from gan_vkd.runtime.dry_run import Needs, duration, in_words, pace, parameters, timed
from gan_vkd.runtime.errors import one_line_without_memory
from gan_vkd.runtime.folder import RunFolder
from gan_vkd.runtime.graphs import own_stream
from gan_vkd.runtime.memory import peak_memory
from gan_vkd.runtime.meter import Meter

SECONDS = 4.0  # of measured updates, at least one


def dry_run(
    build: Callable[[Any, Any, str], EpochTask], settings: EpochRunSettings, folder: Path
) -> Needs:
    """Measures a few updates on the run's images; nothing is written to `folder`.

    The first update, which allocates and starts the data loader, is not measured. Evaluations are
    not measured, and memory is without that of the data loader's workers.

    Args:
        build: makes the task from settings, a run folder and a device.
        settings: of the run.
        folder: where the results would go.

    Raises:
        SettingsError, VkdError: as the run would, by its data, weights or memory.
    """
    device = pick_device(settings.device)
    with (
        TemporaryDirectory() as elsewhere,
        one_line_without_memory(settings.relief),
        own_stream(device),
    ):
        task, meter = build(settings, RunFolder(Path(elsewhere)), device), Meter(device)

        def step(done: int) -> None:
            meter.begin(done + 1)
            task.step(done, meter)

        step(0)
        taken: list[float] = []
        while sum(taken) < SECONDS and len(taken) < task.total:
            taken.append(timed(partial(step, 1 + len(taken)), device))
        file = Path(elsewhere, "checkpoint.safetensors")
        save_state(file, task.trained.state())
        size = file.stat().st_size
    networks = parameters(task.networks)
    iteration = median(taken)
    total, memory = task.total * iteration, peak_memory(device)
    lines = [
        f"{task.data}; {device}, {task.trained.precision}",
        in_words(networks),
        f"{duration(total)} for {task.epochs} epochs of {task.learner.per_epoch:,} updates of "
        f"{pace(iteration)} ({task.learner.settings.train.batch_size / iteration:.2g} images/s), "
        f"measured on {len(taken)}, without evaluations",
        f"{memory / 2**30:.1f} GiB at the peak; {size / 2**20:.0f} MiB a checkpoint",
        f"results: {folder}",
    ]
    return Needs("\n".join(lines), networks, iteration, total, memory, size)
