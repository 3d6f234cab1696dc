"""Settings that all runs have, and types of the values of settings."""

from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gan_vkd.runtime.components import Choice, OneOf, choice
from gan_vkd.runtime.loggers import LOGGERS
from gan_vkd.runtime.section import Section

# The upper limits are beyond any use: they refuse numbers that would overflow or never end
Positive = Annotated[int, Field(ge=1, le=10**8)]
Count = Annotated[int, Field(ge=0, le=10**8)]
BatchSize = Annotated[int, Field(ge=1, le=65_536)]
Workers = Annotated[int, Field(ge=0, le=1024)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=1e12)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Above0 = Annotated[float, Field(gt=0, le=1e12)]
LearningRate = Annotated[float, Field(gt=0, le=1e30)]
LeastLearningRate = Annotated[float, Field(ge=0, le=1e30)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range of NumPy's seeds


def number_or(*words: str, number: str, fits: Callable[[float], bool]) -> BeforeValidator:
    """Returns a validator for one of the words or a number that `fits`, with one error for both.

    number: describes the valid numbers in the error.
    """

    def checked(value: Any) -> Any:
        with suppress(ValueError, TypeError, OverflowError):
            if value in words or fits(float(value)):
                return value
        raise ValueError(f"expected {number}, or {', '.join(words)}")

    return BeforeValidator(checked)


def _printable(name: str) -> str:
    if not 1 <= len(name) <= 200 or not name.isprintable():
        raise ValueError("expected 1 to 200 printable characters")
    return name


Name = Annotated[str, AfterValidator(_printable)]

# Of the loop: keys by their names in earlier versions, and those that every stored file has
RENAMED_KEYS = {"returns": "rollbacks", "return_lr_factor": "rollback_lr_factor"}
STORED_KEYS = {*RENAMED_KEYS, "log_every", "checkpoint_every", "keep_checkpoints"}


class LoopSettings(Section):
    """Settings of the training loop (gan_vkd/runtime/training.py)."""

    log_every: Positive = 50
    """Updates, or iterations of a GAN, between two records."""
    logger: Annotated[Choice, OneOf(LOGGERS)] = choice("tensorboard")
    """What writes scalars and pictures beside `metrics.jsonl`."""
    checkpoint_every: Positive = 1000
    """Iterations (of runs by epochs: updates) between two checkpoints."""
    keep_checkpoints: Annotated[int, Field(ge=2, le=10**8)] = 2
    """Number of the newest checkpoints that are kept, beside that of the best evaluation."""
    rollbacks: Count = 0
    """How often, at most, a run goes back to its last checkpoint after a value that is not
    finite."""
    rollback_lr_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Factor of the learning rates at each rollback."""
    changed_data: Literal["refuse", "accept"] = "refuse"
    """What is done when a run is resumed whose training data differ from those of its
    checkpoint."""

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, tree: Any) -> Any:
        """Renames the keys of a stored section of an earlier version, which has all of them; one
        written by hand does not."""
        if not isinstance(tree, dict) or not tree.keys() >= STORED_KEYS:
            return tree
        renamed = {new: tree[old] for old, new in RENAMED_KEYS.items()}
        return renamed | {key: value for key, value in tree.items() if key not in RENAMED_KEYS}


class RunSettings(Section):
    """Settings that all runs have."""

    arm: Name
    """Name of the configuration in a comparison: a row of its table."""
    seed: Seed = 0
    """Of initial weights, order of images and random numbers."""
    device: str = "auto"
    """`auto`: a GPU where there is one, else the CPU; or `cpu`, `cuda`, `cuda:1`, ..."""
    train: LoopSettings = Field(default_factory=LoopSettings)

    # Keys, or their prefixes, that may change when a run is resumed: they affect what is reported
    # and how errors are handled
    may_change: ClassVar[tuple[str, ...]] = (
        "device", "train.log_every", "train.logger", "train.checkpoint_every",
        "train.keep_checkpoints", "train.rollbacks", "train.changed_data", "evaluate.every",
    )  # fmt: skip

    @property
    def total(self) -> int | None:
        """Iterations of a finished run; None: the number stored in its checkpoint."""
        return None

    @property
    def length(self) -> str:
        """The length of a finished run, in words."""
        raise NotImplementedError

    @property
    def relief(self) -> str:
        """Advice for a run that is out of memory."""
        raise NotImplementedError

    def dump(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
