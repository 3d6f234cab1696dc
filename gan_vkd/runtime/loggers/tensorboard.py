"""TensorBoard events. A run continues without them if they cannot be written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from gan_vkd.runtime.errors import one_line
from gan_vkd.runtime.finite import finite
from gan_vkd.runtime.loggers.interface import Logger


class TensorBoard(Logger):
    """Writes event files; the first failure is reported and ends the logging.

    Args:
        folder: for the event files.
        purge_step: earlier events of this iteration and later are hidden, since a resumed run
            repeats them.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        self.folder = folder
        self._writer: SummaryWriter | None = None
        with self._ending_on_failure():
            self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    @contextmanager
    def _ending_on_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the writer's thread passes on any kind of error
            self._writer = None
            reason = one_line(error)
            print(f"{self.folder}: no TensorBoard events from now on ({reason})")

    def scalars(self, prefix: str, values: dict[str, Any], iteration: int) -> None:
        with self._ending_on_failure():
            for name, value in values.items():
                if self._writer is not None and isinstance(value, float):
                    self._writer.add_scalar(f"{prefix}/{name}", value, iteration)

    def image(self, name: str, picture: Tensor, iteration: int) -> None:
        with self._ending_on_failure():
            if self._writer is not None:
                self._writer.add_image(name, picture, iteration)

    def histograms(self, prefix: str, values: dict[str, Tensor], iteration: int) -> None:
        with self._ending_on_failure():
            for name, tensor in finite(values).items():
                if self._writer is not None:
                    self._writer.add_histogram(f"{prefix}/{name}", tensor, iteration)

    def close(self) -> None:
        with self._ending_on_failure():
            if self._writer is not None:
                self._writer.close()
