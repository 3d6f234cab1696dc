"""The exponential moving average (EMA) of the generator, which is used for sampling."""

import copy
from collections.abc import Callable

import torch

from gan_vkd.networks.interface import Generator


class EMA:
    """Maintains a frozen EMA copy of the generator.

    Args:
        generator: the generator to average, parameters and batch norm statistics alike.
        decay: maps the iteration to the decay, in [0, 1].
        start: number of first iterations in which the weights are copied instead of averaged.
    """

    def __init__(
        self, generator: Generator, decay: Callable[[int], float] = lambda i: 0.9999, start: int = 0
    ) -> None:
        self.generator = copy.deepcopy(generator).eval().requires_grad_(False)
        self.decay, self.start = decay, start

    @torch.no_grad()
    def update(self, generator: Generator, iteration: int) -> None:
        """Updates the EMA with the generator after its update of the given iteration."""
        weight = 1 - self.decay(iteration) if iteration >= self.start else 1.0
        averaged, current = self.generator.state_dict(), generator.state_dict()
        torch._foreach_lerp_(list(averaged.values()), list(current.values()), weight)
