"""Schedules over iterations, for learning rates, betas, penalty weights and the EMA decay."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Cosine schedule from `start` to `end` over the first `iterations`, constant afterwards.

    R3GAN's published code anneals its values in this way (Huang et al., NeurIPS 2024). With
    iterations = 0 the value is `end` throughout.
    """

    end: float
    start: float = 0.0
    iterations: int = 0

    def __call__(self, iteration: int) -> float:
        """The value at an iteration, counted from 0."""
        if iteration >= self.iterations:
            return self.end
        done = (1 - math.cos(math.pi * iteration / self.iterations)) / 2
        return self.start + (self.end - self.start) * done


def as_schedule(value: Schedule | float) -> Schedule:
    """Converts a number to a constant schedule; returns a schedule unchanged."""
    return value if isinstance(value, Schedule) else Schedule(value)
