"""DiffAugment (Zhao et al., NeurIPS 2020): colour, translation and cutout of every image.

Each can be applied with a probability below one instead, as ADA's are (docs/augmentation.md).
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from gan_vkd.data.augment.interface import AUGMENTATIONS, Augmentation
from gan_vkd.runtime.ranks import own_rows
from gan_vkd.runtime.schedule import Schedule, as_schedule, number_or_schedule

Ratio = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[
    float | Schedule,
    number_or_schedule(number="a number from 0 to 1", fits=lambda p: 0 <= p <= 1),
]

ALWAYS = Schedule(end=1.0)


def color(x: Tensor) -> Tensor:
    """Random brightness in +-0.5, saturation in [0, 2] and contrast in [0.5, 1.5], per sample.

    A fourth channel (alpha) stays; grey has no saturation.
    """
    x, alpha = x[:, :3], x[:, 3:]
    drawn = own_rows(lambda n: torch.rand(n, 3, 1, 1, 1, device=x.device), len(x))
    brightness, saturation, contrast = drawn.unbind(1)
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (saturation * 2)
    mean = x.mean((1, 2, 3), keepdim=True)
    return torch.cat([mean + (x - mean) * (contrast + 0.5), alpha], 1)


def translation(x: Tensor, ratio: float = 0.125) -> Tensor:
    """Shifts images by up to `ratio` of their size in both directions, with zero padding."""
    b, _, h, w = x.shape
    ph, pw = round(h * ratio), round(w * ratio)
    rows = _shifted(h, ph, b, x.device)
    cols = _shifted(w, pw, b, x.device)
    batch = torch.arange(b, device=x.device)[:, None, None]
    padded = F.pad(x, (pw, pw, ph, ph)).permute(0, 2, 3, 1)
    return padded[batch, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


def _shifted(length: int, pad: int, batch: int, device: torch.device) -> Tensor:
    """Returns randomly shifted indices (batch, length) into a line with `pad` at both ends."""
    shift = own_rows(lambda n: torch.randint(0, 2 * pad + 1, (n, 1), device=device), batch)
    return torch.arange(length, device=device) + shift


def cutout(x: Tensor, ratio: float = 0.5) -> Tensor:
    """Zeros a square with side `ratio` of the image's, centred anywhere in the image."""
    inside = _covered(x.shape[2], ratio, x)[:, :, None] & _covered(x.shape[3], ratio, x)[:, None, :]
    return x.masked_fill(inside[:, None], 0.0)


def _covered(length: int, ratio: float, x: Tensor) -> Tensor:
    """Returns (batch, length), true in a segment of ratio * length centred on a pixel (or edge)."""
    size = round(length * ratio)
    end = length + (1 - size % 2)
    centre = own_rows(lambda n: torch.randint(0, end, (n, 1), device=x.device), len(x))
    offset = torch.arange(length, device=x.device) - centre + size // 2
    return (offset >= 0) & (offset < size)


class DiffAugment(Augmentation):
    """Base class of an operation that is applied to each image with probability p, independently.

    Args:
        p: a number, 1 as published, or a schedule over iterations.
    """

    now: Tensor

    def __init__(self, p: Probability) -> None:
        super().__init__()
        self.p = as_schedule(p)
        # on the device, where a captured step reads it; follows from the iteration, so it is not
        # part of the checkpoints
        self.register_buffer("now", torch.tensor(self.p(0)), persistent=False)

    def set_iteration(self, iteration: int) -> None:
        self.now.fill_(self.p(iteration))

    def forward(self, images: Tensor) -> Tensor:
        changed = self.operation(images)
        if self.p == ALWAYS:
            return changed
        drawn = own_rows(lambda n: torch.rand(n, 1, 1, 1, device=images.device), len(images))
        return torch.where(drawn < self.now, changed, images)

    def operation(self, images: Tensor) -> Tensor:
        """Changes all images (B, C, H, W)."""
        raise NotImplementedError


@AUGMENTATIONS.register("color")
class Color(DiffAugment):
    """Random brightness, saturation and contrast."""

    def __init__(self, *, p: Probability = 1.0) -> None:
        super().__init__(p)

    def operation(self, images: Tensor) -> Tensor:
        return color(images)


@AUGMENTATIONS.register("translation")
class Translation(DiffAugment):
    """Random shifts.

    Args:
        ratio: the largest shift, as a share of the side.
    """

    def __init__(self, *, ratio: Ratio = 0.125, p: Probability = 1.0) -> None:
        super().__init__(p)
        self.ratio = ratio

    def operation(self, images: Tensor) -> Tensor:
        return translation(images, self.ratio)


@AUGMENTATIONS.register("cutout")
class Cutout(DiffAugment):
    """A square of zeros anywhere in the image.

    Args:
        ratio: side of the square, as a share of the image's.
    """

    def __init__(self, *, ratio: Ratio = 0.5, p: Probability = 1.0) -> None:
        super().__init__(p)
        self.ratio = ratio

    def operation(self, images: Tensor) -> Tensor:
        return cutout(images, self.ratio)
