"""The shape of the images of a set, which networks are built for."""

from typing import NamedTuple


class Shape(NamedTuple):
    """channels: 3 (RGB). height, width: in pixels."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        """R for squares, else H x W."""
        square = self.height == self.width
        return str(self.height) if square else f"{self.height} x {self.width}"
