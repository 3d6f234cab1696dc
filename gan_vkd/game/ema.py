"""The exponential moving average (EMA) of the generator's weights, which is what is sampled."""

import copy
from collections.abc import Callable

import torch

from gan_vkd.networks.interface import Generator


class EMA:
    """A frozen copy of the generator that follows it.

    Args:
        generator: what is averaged, parameters and batch statistics alike.
        decay: of the average at an iteration, in [0, 1].
        start: iterations in which the copy is a plain one.
    """

    def __init__(
        self, generator: Generator, decay: Callable[[int], float] = lambda i: 0.9999, start: int = 0
    ) -> None:
        self.generator = copy.deepcopy(generator).eval().requires_grad_(False)
        self.decay, self.start = decay, start

    @torch.no_grad()
    def update(self, generator: Generator, iteration: int) -> None:
        """Moves the copy towards the generator, after its step of that iteration."""
        weight = 1 - self.decay(iteration) if iteration >= self.start else 1.0
        averaged, current = self.generator.state_dict(), generator.state_dict()
        torch._foreach_lerp_(list(averaged.values()), list(current.values()), weight)
