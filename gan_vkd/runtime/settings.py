"""What every run is told, and the kinds of values that settings have."""

from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BeforeValidator, Field

from gan_vkd.runtime.components import Choice, OneOf, choice
from gan_vkd.runtime.loggers import LOGGERS
from gan_vkd.runtime.section import Section

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Above0 = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy takes


def number_or(*words: str, number: str, fits: Callable[[float], bool]) -> BeforeValidator:
    """One of the words, or a number that fits, which `number` describes: one fault for both."""

    def checked(value: Any) -> Any:
        with suppress(ValueError, TypeError):
            if value in words or fits(float(value)):
                return value
        raise ValueError(f"expected {number}, or {', '.join(words)}")

    return BeforeValidator(checked)


class LoopSettings(Section):
    """What every training's loop is told (gan_vkd/runtime/training.py)."""

    log_every: Positive = 50
    logger: Annotated[Choice, OneOf(LOGGERS)] = choice("tensorboard")
    checkpoint_every: Positive = 1000
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2  # the newest, beside the best one
    returns: Annotated[int, Field(ge=0)] = 0  # to the last checkpoint, from what is not finite
    return_lr_factor: Annotated[float, Field(gt=0, le=1)] = 0.5  # of the learning rates, at each
    changed_data: Literal["refuse", "accept"] = "refuse"  # since the checkpoint that is resumed


class RunSettings(Section):
    """What every run is told."""

    arm: str  # the row of the table that the run belongs to
    seed: Seed = 0
    device: str = "auto"
    train: LoopSettings = Field(default_factory=LoopSettings)

    # Settings, or their beginnings, that may be others when a run is continued: what it reports,
    # what it does in trouble
    may_change: ClassVar[tuple[str, ...]] = (
        "device", "train.log_every", "train.logger", "train.checkpoint_every",
        "train.keep_checkpoints", "train.returns", "train.changed_data", "evaluate.every",
    )  # fmt: skip

    @property
    def total(self) -> int | None:
        """Iterations that make a run finished; None: as many as its checkpoint says."""
        return None

    @property
    def length(self) -> str:
        """Of a finished run, in words."""
        raise NotImplementedError

    @property
    def relief(self) -> str:
        """What to do without memory."""
        raise NotImplementedError

    def dump(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
