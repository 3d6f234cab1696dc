"""Random affine transforms: pixel blitting and general geometric transformations.

An operation returns inverses (B, 3, 3), which map positions (x, y, 1) of the output, in pixels from
the image's centre, to positions of the input. The inverse of A followed by B is A^-1 B^-1, so a
product of inverses reads in the order in which the operations are applied.
"""

import torch
from torch import Tensor

from gan_vkd.data.augment.ada.draws import Draws

SHIFT = (
    0.125  # largest integer translation, and standard deviation of the fractional one: of a side
)
ZOOM = 0.2  # standard deviation of scalings in octaves


def blitting(draws: Draws, height: int, width: int, flip: bool) -> Tensor:
    """Horizontal flip (where `flip`), quarter turns and integer translation: inverses (B, 3, 3)."""
    moved = quarter_turn(draws) @ integer_translation(draws, height, width)
    return horizontal_flip(draws) @ moved if flip else moved


def general(draws: Draws, height: int, width: int) -> Tensor:
    """Scalings, rotations and fractional translation: inverses (B, 3, 3)."""
    return (
        isotropic_scaling(draws)
        @ rotation(draws)
        @ anisotropic_scaling(draws)
        @ rotation(draws)
        @ fractional_translation(draws, height, width)
    )


def horizontal_flip(draws: Draws) -> Tensor:
    """Mirrors half of the samples to which it is applied."""
    return scaled_by(draws.sometimes(1 - 2 * draws.whole(2), 1), 1)


def quarter_turn(draws: Draws) -> Tensor:
    """Rotates by 0, 1, 2 or 3 times 90 degrees."""
    return turned_by(draws.sometimes(torch.pi / 2 * draws.whole(4), 0))


def integer_translation(draws: Draws, height: int, width: int) -> Tensor:
    """Shifts by up to an eighth of each side, in whole pixels."""
    share = draws.sometimes(SHIFT * (2 * draws.uniform(2) - 1), 0)
    return moved_by((share[:, 0] * width).round(), (share[:, 1] * height).round())


def isotropic_scaling(draws: Draws) -> Tensor:
    """Scales both axes by the same factor."""
    factor = draws.sometimes(draws.lognormal(ZOOM), 1)
    return scaled_by(1 / factor, 1 / factor)


def anisotropic_scaling(draws: Draws) -> Tensor:
    """Scales the axes by a factor and its reciprocal."""
    factor = draws.sometimes(draws.lognormal(ZOOM), 1)
    return scaled_by(1 / factor, factor)


def rotation(draws: Draws) -> Tensor:
    """Rotates by any angle, at a probability with which one of two rotations is applied with p."""
    angle = torch.pi * (2 * draws.uniform() - 1)
    return turned_by(draws.sometimes(angle, 0, 1 - (1 - draws.p).sqrt()))


def fractional_translation(draws: Draws, height: int, width: int) -> Tensor:
    """Shifts by normally distributed shares of each side."""
    share = draws.sometimes(SHIFT * draws.normal(2), 0)
    return moved_by(share[:, 0] * width, share[:, 1] * height)


def scaled_by(x: Tensor, y: Tensor | float) -> Tensor:
    """Matrices (B, 3, 3) that scale the axes by x and y (B,)."""
    return _matrices([[x, 0, 0], [0, y, 0], [0, 0, 1]], x)


def turned_by(angle: Tensor) -> Tensor:
    """Inverses (B, 3, 3) of a rotation by the angle (B,), counter-clockwise."""
    cosine, sine = angle.cos(), angle.sin()
    return _matrices([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], angle)


def moved_by(x: Tensor, y: Tensor) -> Tensor:
    """Inverses (B, 3, 3) of a translation to the right by x (B,) and down by y (B,) pixels."""
    return _matrices([[1, 0, -x], [0, 1, -y], [0, 0, 1]], x)


def _matrices(rows: list[list[Tensor | float]], like: Tensor) -> Tensor:
    entries = [
        entry if isinstance(entry, Tensor) else torch.full_like(like, entry)
        for row in rows
        for entry in row
    ]
    return torch.stack(entries, -1).unflatten(-1, (len(rows), len(rows[0])))
