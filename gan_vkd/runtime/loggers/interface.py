"""What a logger does."""

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
