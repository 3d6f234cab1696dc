"""TensorBoard events. A run continues without them if they cannot be written."""

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from gan_vkd.runtime.finite import finite
from gan_vkd.runtime.loggers.interface import FallibleLogger


class TensorBoard(FallibleLogger):
    """Writes event files.

    Args:
        folder: for the event files.
        purge_step: earlier events of this iteration and later are hidden, since a resumed run
            repeats them.
    """

    what: ClassVar[str] = "TensorBoard events"

    def __init__(self, folder: Path, purge_step: int) -> None:
        super().__init__(folder)
        with self._ending_on_failure():
            self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def scalars(self, prefix: str, values: dict[str, Any], iteration: int) -> None:
        with self._ending_on_failure():
            for name, value in values.items():
                if self.open and isinstance(value, float):
                    self._writer.add_scalar(f"{prefix}/{name}", value, iteration)

    def image(self, name: str, picture: Tensor, iteration: int) -> None:
        with self._ending_on_failure():
            if self.open:
                self._writer.add_image(name, picture, iteration)

    def histograms(self, prefix: str, values: dict[str, Tensor], iteration: int) -> None:
        with self._ending_on_failure():
            for name, tensor in finite(values).items():
                if self.open:
                    self._writer.add_histogram(f"{prefix}/{name}", tensor, iteration)

    def close(self) -> None:
        with self._ending_on_failure():
            if self.open:
                self._writer.close()
