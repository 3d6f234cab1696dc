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
from gan_vkd.data.augment.ada.ramp import Ramp
from gan_vkd.data.augment.ada.resampling import warp
from gan_vkd.data.augment.interface import AUGMENTATIONS, Augmentation
from gan_vkd.runtime.settings import Fraction, number_or

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
        ramp: thousands of real images in which a number p is reached, from 0; 0: used from the
            start.
        color_share: of p, for the colour operations; 0.5 in R3GAN.
        target: of the controller, for r_t, the mean sign of the scores of real images.
        every: updates of the discriminator between two changes of p.
        kimg: thousands of real images in which p can rise from 0 to 1.
        flip: whether pixel blitting has the horizontal flip. False for images whose mirror image is
            not valid; None: as `data.flip` in a run, else True.
    """

    def __init__(
        self,
        *,
        groups: tuple[Group, ...] = ("blit", "geometric", "color"),
        p: Probability = "adaptive",
        ramp: Annotated[float, Field(ge=0, le=1e12)] = 0.0,
        color_share: Fraction = 1.0,
        target: Annotated[float, Field(ge=-1, le=1)] = 0.6,
        every: Annotated[int, Field(ge=1, le=10**8)] = 4,
        kimg: Annotated[float, Field(gt=0, le=1e12)] = 500.0,
        flip: bool | None = None,
    ) -> None:
        super().__init__()
        self.groups, self.flip = groups, flip is not False
        self.color_share = color_share
        if p == "adaptive":
            self.controller = Controller(0.0, target, every, kimg)
        elif ramp:
            self.controller = Ramp(float(p), every, ramp)
        else:
            self.controller = Controller(float(p), target, every, math.inf)

    @classmethod
    def check(cls, groups: tuple[Group, ...], p: float | str, ramp: float, **_: object) -> None:
        if not groups:
            raise ValueError("groups is empty: name at least one")
        if ramp and p == "adaptive":
            raise ValueError("ramp leads to a number: set p, or ramp = 0")

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
            images = recolored(images, colors(Draws(draws.p * self.color_share, images)))
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
