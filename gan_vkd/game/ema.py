"""The exponential moving average (EMA) of the generator, which is used for sampling."""

import copy
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator

from gan_vkd.networks.interface import Generator
from gan_vkd.runtime.schedule import Schedule, as_schedule, number_or_schedule
from gan_vkd.runtime.section import Section

AUTO = 312.5  # iterations: a half-life of batch * 10 / 32 thousand images


class HalfLife(Section):
    """A decay that halves the weight of a generator in the EMA after a number of images.

    decay = 0.5 ** (batch / min(half_life, ramp_up * images so far))
    """

    half_life: Annotated[
        float | Literal["auto"] | Schedule,
        number_or_schedule("auto", number="a number of images", fits=lambda x: 0 <= x <= 1e12),
    ] = "auto"
    """In images, a number or a schedule over iterations; auto: 312.5 batches, as in StyleGAN2-ADA's
    automatic configuration (Karras et al., NeurIPS 2020). 0: no average."""
    ramp_up: Annotated[float, Field(gt=0, le=1e12)] | None = 0.05
    """The half-life is at most this share of the images so far; null: no such limit."""

    def of_batch(self, batch_size: int) -> Callable[[int], float]:
        """Returns the decay by iteration, counted from 0, for batches of this size."""
        half_life = as_schedule(AUTO * batch_size if self.half_life == "auto" else self.half_life)

        def decay(iteration: int) -> float:
            images = half_life(iteration)
            if self.ramp_up is not None:
                images = min(images, self.ramp_up * iteration * batch_size)
            return 0.5 ** (batch_size / images) if images else 0.0

        return decay


def _half_life_or(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, dict) and value.keys() & HalfLife.model_fields.keys():
        try:
            return HalfLife.model_validate(value)
        except ValueError:
            raise ValueError(
                "expected {half_life: a number of images, a schedule of it, or auto; ramp_up: a "
                "number above 0, or null}"
            ) from None
    return value if isinstance(value, HalfLife) else handler(value)


DecayOverTime = Annotated[
    float | Schedule | HalfLife,
    number_or_schedule(number="a number from 0 to 1", fits=lambda x: 0 <= x <= 1),
    WrapValidator(_half_life_or),
]


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
