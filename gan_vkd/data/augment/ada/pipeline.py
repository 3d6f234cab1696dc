"""ADA's pipeline of operations, in the paper's order, with its controller."""

import math
from functools import reduce
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from gan_vkd.data.augment.ada.color import colors, recolored
from gan_vkd.data.augment.ada.controller import Controller
from gan_vkd.data.augment.ada.corruption import cut, noisy
from gan_vkd.data.augment.ada.draws import Draws
from gan_vkd.data.augment.ada.filtering import amplified, gains
from gan_vkd.data.augment.ada.geometry import blitting, general
from gan_vkd.data.augment.ada.resampling import warp
from gan_vkd.data.augment.interface import AUGMENTATIONS, Augmentation
from gan_vkd.runtime.settings import number_or

Group = Literal["blit", "geometric", "color", "filter", "noise", "cutout"]
Probability = Annotated[
    float | Literal["adaptive"],
    number_or("adaptive", number="a number from 0 to 1", fits=lambda p: 0 <= p <= 1),
]


@AUGMENTATIONS.register("ada")
class Ada(Augmentation):
    """Adaptive discriminator augmentation of images (B, C, H, W): 1, 3 or 4 channels, two pixels
    or more a side.

    Args:
        groups: of operations; those of the paper's "bgc" if not given.
        p: probability of each operation, or "adaptive": from 0 on, moved by the controller.
        target, every, kimg: of the controller.
        flip: whether pixel blitting has the horizontal flip. False for images whose mirror image is
            not valid; None: as `data.flip` in a run, else True.
    """

    def __init__(
        self,
        *,
        groups: tuple[Group, ...] = ("blit", "geometric", "color"),
        p: Probability = "adaptive",
        target: Annotated[float, Field(ge=-1, le=1)] = 0.6,
        every: Annotated[int, Field(ge=1, le=10**8)] = 4,
        kimg: Annotated[float, Field(gt=0, le=1e12)] = 500.0,
        flip: bool | None = None,
    ) -> None:
        super().__init__()
        self.groups, self.flip = groups, flip is not False
        start, speed = (0.0, kimg) if p == "adaptive" else (float(p), math.inf)
        self.controller = Controller(start, target, every, speed)

    @classmethod
    def check(cls, groups: tuple[Group, ...], **_: object) -> None:
        if not groups:
            raise ValueError("groups is empty: name at least one")

    def forward(self, images: Tensor) -> Tensor:
        draws = Draws(self.controller.p, images)
        size = images.shape[2], images.shape[3]
        inverses = []
        if "blit" in self.groups:
            inverses.append(blitting(draws, *size, self.flip))
        if "geometric" in self.groups:
            inverses.append(general(draws, *size))
        if inverses:
            images = warp(images, reduce(torch.matmul, inverses))
        if "color" in self.groups:
            images = recolored(images, colors(draws))
        if "filter" in self.groups:
            images = amplified(images, gains(draws))
        if "noise" in self.groups:
            images = noisy(images, draws)
        if "cutout" in self.groups:
            images = cut(images, draws)
        return images

    def observe(self, real_scores: Tensor) -> None:
        self.controller.observe(real_scores)

    def logged(self) -> dict[str, Tensor]:
        """Returns the probability and the last measured r_t."""
        return {"ada_p": self.controller.p.clone(), "ada_rt": self.controller.rt.clone()}
