"""Where a run's curves and pictures are shown, beside its records (metrics.jsonl).

Another logger is a file with a subclass of `Logger`, and its name in `LOGGERS`.
"""

from collections.abc import Callable
from pathlib import Path

from gan_vkd.runtime.loggers.interface import Logger


def _tensorboard(folder: Path, first: int) -> Logger:
    from gan_vkd.runtime.loggers.tensorboard import TensorBoard

    return TensorBoard(folder / "tensorboard", first)


# By name (train.logger): given the run folder and the first iteration that will be shown, since a
# resumed run repeats some
LOGGERS: dict[str, Callable[[Path, int], Logger]] = {
    "tensorboard": _tensorboard,
    "none": lambda folder, first: Logger(),
}


def known(name: str) -> str:
    """The name of a logger.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in LOGGERS:
        raise ValueError(f"expected {' or '.join(LOGGERS)}")
    return name
