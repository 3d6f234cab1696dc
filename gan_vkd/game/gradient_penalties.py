"""Penalties on the gradient of D at images: lazy R1, and R1 and R2 in every update."""

from typing import Literal

import torch
from torch import Tensor

from gan_vkd.distill.precision import at_least_float32
from gan_vkd.game.regularization import Regularizer, Update
from gan_vkd.runtime.schedule import Schedule, as_schedule


def r1_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """Half the mean squared norm of the gradient of D (Mescheder et al., ICML 2018, equation 9).

        E ||grad_x D(x)||^2 / 2 over real images; its weight is the paper's gamma

    StyleGAN2-ADA takes the gradient with respect to the clean images, through the augmentation: set
    `requires_grad_()` on the clean images, augment them, and score the result.

    Args:
        scores: (B,), computed from `images` with gradients enabled; each score must depend on its
            own image alone.
        images: (B, ...), with requires_grad.

    Raises:
        RuntimeError: the images do not require a gradient, or the scores do not depend on them.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return at_least_float32(gradient).square().sum() / (2 * len(images))


class GradientPenalty(Regularizer):
    """Base class of a penalty whose weight is on the device.

    One captured update therefore serves all weights of a schedule.

    Args:
        weight: the papers' gamma, a number or a schedule over iterations.
        every: the penalty is computed at every `every`-th update and multiplied by `every` (lazy
            regularisation, Karras et al., CVPR 2020, appendix B).
    """

    weight_now: Tensor

    def __init__(self, weight: Schedule | float, every: int) -> None:
        super().__init__()
        self.weight, self.every = as_schedule(weight), every
        self.register_buffer("weight_now", torch.tensor(self.weight(0)), persistent=False)

    def set_iteration(self, iteration: int) -> None:
        self.weight_now.fill_(self.weight(iteration))

    def variant(self, number: int, iteration: int) -> bool:
        """Whether the penalty is computed."""
        return number % self.every == 0

    def penalty(self, update: Update) -> Tensor | None:
        if not self.variant(update.number, update.iteration):
            return None
        return self.weight_now * self.every * self.value(update)

    def value(self, update: Update) -> Tensor:
        """Returns the penalty before it is weighted, a scalar."""
        raise NotImplementedError


class R1(GradientPenalty):
    """R1 (`r1_penalty`) at the clean real images, through an augmentation of its own.

    The real images are scored once more, which costs less than `SharedPenalty` where R1 is the only
    penalty.
    """

    name = "r1_loss"

    def __init__(self, weight: Schedule | float, every: int = 16) -> None:
        super().__init__(weight, every)

    def value(self, update: Update) -> Tensor:
        real = update.batch.images.detach().clone().requires_grad_()
        scores = update.score(update.augment(real), update.batch.labels)
        return r1_penalty(scores, real)


class SharedPenalty(GradientPenalty):
    """R1 or R2 from the derivative of the scores that the adversarial loss is of.

        R1 = E ||grad D(x)||^2 / 2 over real images, R2 = the same over generated ones

    R3GAN (Huang et al., NeurIPS 2024, section 2) adds both to each update. The gradient is at the
    clean images, through the augmentation of the update, and both share one derivative.

    Args:
        images: "real" (R1) or "fake" (R2).
        weight, every: as in `GradientPenalty`; every = 1 as published.
    """

    def __init__(
        self, images: Literal["real", "fake"], weight: Schedule | float, every: int = 1
    ) -> None:
        super().__init__(weight, every)
        self.name = {"real": "r1_loss", "fake": "r2_loss"}[images]
        self.images = images

    def differentiates(self, number: int) -> bool:
        return number % self.every == 0

    def value(self, update: Update) -> Tensor:
        fake, real = update.gradients()
        gradient = at_least_float32(real if self.images == "real" else fake)
        return gradient.square().sum() / (2 * len(gradient))
