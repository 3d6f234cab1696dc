"""Schedules over iterations, for learning rates, betas, weights, the EMA and augmentation."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from pydantic import BeforeValidator

from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings import Count


class Schedule(Section):
    """Cosine schedule from `start` to `end` over the first `iterations`, constant afterwards.

    R3GAN's published code anneals its values in this way (Huang et al., NeurIPS 2024). With
    iterations = 0 the value is `end` throughout.
    """

    end: float
    start: float = 0.0
    iterations: Count = 0

    def __call__(self, iteration: int) -> float:
        """The value at an iteration, counted from 0."""
        if iteration >= self.iterations:
            return self.end
        done = (1 - math.cos(math.pi * iteration / self.iterations)) / 2
        return self.start + (self.end - self.start) * done

    def in_steps(self, iteration: int) -> float:
        """The value at the start of the present 32nd of the schedule."""
        step = max(1, self.iterations // 32)
        return self(iteration if iteration >= self.iterations else iteration // step * step)


def as_schedule(value: Schedule | Mapping[str, Any] | float) -> Schedule:
    """Converts a number to a constant schedule, or a schedule's settings to a schedule."""
    if isinstance(value, Schedule | Mapping):
        return Schedule.model_validate(value)
    return Schedule(end=value)


def number_or_schedule(*words: str, number: str, fits: Callable[[float], bool]) -> BeforeValidator:
    """Returns a validator for a number that `fits`, a schedule of such numbers, or a word.

    number: describes the valid numbers in the error.
    """

    def checked(value: Any) -> Any:
        with suppress(ValueError, TypeError, OverflowError):
            if isinstance(value, dict | Schedule):
                schedule = Schedule.model_validate(value)
                if fits(schedule.start) and fits(schedule.end):
                    return schedule
            elif value in words or (not isinstance(value, bool) and fits(float(value))):
                return value
        others = ", ".join(["a schedule {start: A, end: B, iterations: N} of such numbers", *words])
        raise ValueError(f"expected {number}, or {others}")

    return BeforeValidator(checked)
