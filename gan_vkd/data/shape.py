"""The shape of the images of a set, which networks are built for."""

from typing import NamedTuple

LEAST = 4  # of the shorter side at the start of a network


class Shape(NamedTuple):
    """channels: 1 (grey), 3 (RGB) or 4 (RGBA). height, width: in pixels."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        """R for squares, else H x W."""
        square = self.height == self.width
        return str(self.height) if square else f"{self.height} x {self.width}"

    @staticmethod
    def of(shape: "Shape | int") -> "Shape":
        """The shape, or that of RGB squares of a side."""
        return Shape(3, shape, shape) if isinstance(shape, int) else shape

    @property
    def halvings(self) -> int | None:
        """Number of halvings that bring the shorter side to 4, 5, 6 or 7 pixels.

        None if one of the sides is not a multiple of that power of two.
        """
        count = (min(self.height, self.width) // LEAST).bit_length() - 1
        whole = count >= 0 and self.height % 2**count == self.width % 2**count == 0
        return count if whole else None

    @property
    def square(self) -> int | None:
        """Side of the square of 4 times a power of two that has as many halvings."""
        return None if self.halvings is None else LEAST << self.halvings

    def halved(self, count: int) -> "Shape":
        """The shape after `count` halvings."""
        return Shape(self.channels, self.height >> count, self.width >> count)
