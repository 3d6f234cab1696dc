"""Schedules over iterations, for learning rates, betas, weights, the EMA and augmentation."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal

from pydantic import BeforeValidator

from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings import Count


class Schedule(Section):
    """Cosine schedule from `start` to `end` over the first `iterations`, constant afterwards.

    R3GAN's published code anneals its values in this way (Huang et al., NeurIPS 2024). With
    iterations = 0 the value is `end` throughout; auto: those of the whole run (`over_run`).
    """

    end: float
    """The value from `iterations` on."""
    start: float = 0.0
    """The value at the start."""
    iterations: Count | Literal["auto"] = 0
    """Length; auto: that of the whole run."""

    def __call__(self, iteration: int) -> float:
        """The value at an iteration, counted from 0."""
        if iteration >= self.length:
            return self.end
        done = (1 - math.cos(math.pi * iteration / self.length)) / 2
        return self.start + (self.end - self.start) * done

    def in_steps(self, iteration: int) -> float:
        """The value at the start of the present 32nd of the schedule."""
        step = max(1, self.length // 32)
        return self(iteration if iteration >= self.length else iteration // step * step)

    @property
    def length(self) -> int:
        """Its number of iterations; raises ValueError where that is still `auto`."""
        if self.iterations == "auto":
            raise ValueError("iterations = auto: the length of the run is not known")
        return self.iterations


def over_run(tree: Any, length: int) -> Any:
    """Returns a tree of settings whose schedules over `auto` iterations have this length."""
    if isinstance(tree, list | tuple):
        return [over_run(part, length) for part in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        key: length if (key, value) == ("iterations", "auto") else over_run(value, length)
        for key, value in tree.items()
    }


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
        other = "a schedule {start: A, end: B, iterations: N or auto} of such numbers"
        others = ", ".join([other, *words])
        raise ValueError(f"expected {number}, or {others}")

    return BeforeValidator(checked)
