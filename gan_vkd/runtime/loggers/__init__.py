"""Where a run's curves and pictures are shown, beside its records (metrics.jsonl).

Another logger is a file with a subclass of `Logger`, and its name in `LOGGERS`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class Logger:
    """Shows nothing: the interface, and what ranks other than the first have."""

    def scalars(self, prefix: str, values: dict[str, Any], iteration: int) -> None:
        """Those of the values that are floats, under prefix/name."""

    def image(self, name: str, picture: "Tensor", iteration: int) -> None:
        """A uint8 picture (3, H, W)."""

    def histograms(self, prefix: str, values: dict[str, "Tensor"], iteration: int) -> None:
        """The distribution of each tensor, under prefix/name."""

    def close(self) -> None:
        """Nothing is shown after it."""


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
