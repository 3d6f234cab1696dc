"""The interface of a logger."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from gan_vkd.runtime.errors import one_line

if TYPE_CHECKING:
    from torch import Tensor


class Logger:
    """The interface; logs nothing itself, as all ranks but the first do."""

    def scalars(self, prefix: str, values: dict[str, Any], iteration: int) -> None:
        """Logs the values that are floats, under prefix/name."""

    def image(self, name: str, picture: "Tensor", iteration: int) -> None:
        """Logs a uint8 image (C, H, W) of 1, 3 or 4 channels."""

    def histograms(self, prefix: str, values: dict[str, "Tensor"], iteration: int) -> None:
        """Logs a histogram of each tensor's finite values, under prefix/name."""

    def close(self) -> None:
        """Ends logging; nothing is logged after it."""


class FallibleLogger(Logger):
    """A logger whose first failure is reported and ends its logging, but not the run.

    what: is written, in words.
    """

    what: ClassVar[str]

    def __init__(self, place: object) -> None:
        self.place, self.open = place, True

    @contextmanager
    def _ending_on_failure(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # threads of a writer pass on any kind of error
            self.open = False
            print(f"{self.place}: no {self.what} from now on ({one_line(error)})")
