"""A record of an evaluation, checked: the run folder may be a stranger's."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gan_vkd.runtime.facts import Facts, checked

# Measures by the first judge, shown where a record has them
BESIDE = ("precision", "recall", "density", "coverage", "memorised", "memorised_by_chance")

Count = Annotated[int, Field(ge=0, lt=2**53)]
Name = Annotated[str, Field(max_length=300)]


class JudgeFacts(Facts):
    """What its distances are called in the record, and which network exactly it is."""

    frechet: Name
    kernel: Name
    identity: Name


class EvaluationFacts(Facts):
    """The distances by each judge, under the names that the judge has for them, and how the samples
    were taken. Records of earlier versions have one judge, told by the names alone."""

    iteration: Count
    seconds: Annotated[float, Field(ge=0)] | None = None
    num_samples: Count
    reference: str
    reference_images: Count
    batch_norm: Literal["standing", "running", "batch"] = "running"
    judges: Annotated[list[JudgeFacts], Field(min_length=1, max_length=100)]

    @model_validator(mode="before")
    @classmethod
    def _of_one_judge(cls, record: Any) -> Any:
        if not isinstance(record, dict) or "judges" in record:
            return record
        frechet = next((key for key in record if key.startswith(("FID", "FD("))), "FD")
        kernel = next((key for key in record if key.startswith(("KID", "KD("))), "KD")
        judge = {"frechet": frechet, "kernel": kernel, "identity": record.get("judge", "")}
        return record | {"judges": [judge]}

    @model_validator(mode="after")
    def _numbers(self) -> Self:
        said = self.model_extra or {}
        needed = [name for judge in self.judges for name in (judge.frechet, judge.kernel)]
        for name in [*needed, *(name for name in BESIDE if name in said)]:
            value = said.get(name)
            if not isinstance(value, int | float) or not abs(value) < math.inf:
                raise ValueError(f"{name} is no number")
        return self


def evaluation(record: dict[str, Any], file: Path) -> dict[str, Any]:
    """The record with the types of `EvaluationFacts`.

    Raises:
        VkdError: it lacks something, or has text for a number.
    """
    return checked(EvaluationFacts, record, file)
