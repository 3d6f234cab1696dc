"""Numbers that change while a GAN is trained: learning rates, betas, penalties, the EMA."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """From `start` to `end` within the first `iterations` along half a cosine, then `end`.

    R3GAN's published code anneals its values so (Huang et al., NeurIPS 2024); a constant is a
    schedule of no iterations.
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
    """A number stays what it is."""
    return value if isinstance(value, Schedule) else Schedule(value)
