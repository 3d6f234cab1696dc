"""R1 and R2 in every update, from the derivative of the scores that the adversarial loss is of."""

from typing import Literal

import torch
from torch import Tensor

from gan_vkd.distill.precision import at_least_float32
from gan_vkd.game.regularization import Regularizer, Update
from gan_vkd.runtime.schedule import Schedule, as_schedule


class GradientPenalty(Regularizer):
    """Half the mean squared norm of the gradient of D at the clean images of one kind.

        R1 = E ||grad D(x)||^2 / 2 over real images, R2 = the same over generated ones

    R3GAN (Huang et al., NeurIPS 2024, section 2) adds both to each update. The gradient is that
    of the scores of the update, through its augmentation, and both kinds share one derivative:
    `R1` (game/regularization.py) scores the real images once more instead, which costs less where
    it is the only penalty.

    Args:
        images: "real" (R1) or "fake" (R2).
        weight: the paper's gamma, a number or a schedule over iterations. It is on the device, so
            that one captured update serves all its values.
        every: computed at every `every`-th update and multiplied by `every`; 1 as published.
    """

    weight_now: Tensor

    def __init__(
        self, images: Literal["real", "fake"], weight: Schedule | float, every: int = 1
    ) -> None:
        super().__init__()
        self.name = {"real": "r1_loss", "fake": "r2_loss"}[images]
        self.images, self.weight, self.every = images, as_schedule(weight), every
        self.register_buffer("weight_now", torch.tensor(self.weight(0)), persistent=False)

    def set_iteration(self, iteration: int) -> None:
        self.weight_now.fill_(self.weight(iteration))

    def differentiates(self, number: int) -> bool:
        return number % self.every == 0

    def variant(self, number: int, iteration: int) -> bool:
        """Whether the penalty is computed."""
        return self.differentiates(number)

    def penalty(self, update: Update) -> Tensor | None:
        if not self.differentiates(update.number):
            return None
        fake, real = update.gradients()
        gradient = at_least_float32(real if self.images == "real" else fake)
        return self.weight_now * self.every * gradient.square().sum() / (2 * len(gradient))
