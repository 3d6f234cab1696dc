"""The interface of a logger."""

from typing import TYPE_CHECKING, Any

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
