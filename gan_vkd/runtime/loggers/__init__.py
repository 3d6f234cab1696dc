"""Loggers of a run's curves and images, besides its records (metrics.jsonl).

A further logger is a subclass of `Logger`, registered by name. It is made from the run folder and
the first iteration to be logged, since a resumed run repeats some.
"""

from pathlib import Path

from gan_vkd.runtime.files import subfolder
from gan_vkd.runtime.loggers.interface import Logger
from gan_vkd.runtime.registry import Registry

LOGGERS: Registry[Logger] = Registry("logger")


@LOGGERS.register("tensorboard")
def tensorboard(folder: Path, first: int) -> Logger:
    """TensorBoard events, in the run folder's `tensorboard`."""
    from gan_vkd.runtime.loggers.tensorboard import TensorBoard

    return TensorBoard(subfolder(folder, "tensorboard"), first)


@LOGGERS.register("csv")
def scalars_csv(folder: Path, first: int) -> Logger:
    """scalars.csv in the run folder."""
    from gan_vkd.runtime.loggers.scalars_csv import ScalarsCSV

    return ScalarsCSV(folder / "scalars.csv", first)


@LOGGERS.register("wandb")
def weights_and_biases(folder: Path, first: int, *, project: str = "gan-vkd") -> Logger:
    """Weights & Biases; WANDB_MODE=offline keeps everything in the run folder.

    Args:
        project: name of the project.
    """
    from gan_vkd.runtime.loggers.weights_and_biases import WeightsAndBiases

    return WeightsAndBiases(folder, project)


@LOGGERS.register("none")
def none(folder: Path, first: int) -> Logger:
    """Nothing beside the records."""
    return Logger()
