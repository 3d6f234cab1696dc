"""A record of an evaluation: what every judge found, and how the samples were taken.

Records are checked when they are read, since the run folder may be a stranger's, and those of
earlier versions are converted.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gan_vkd.runtime.facts import Facts, checked

# Measures by the first judge, shown where a record has them
BESIDE = ("precision", "recall", "density", "coverage", "memorised", "memorised_by_chance")

Count = Annotated[int, Field(ge=0, lt=2**53)]
Name = Annotated[str, Field(max_length=300)]


class Judged(Facts):
    """A judge's Frechet and kernel distance, what they are called, and which network it is."""

    frechet_name: Name
    kernel_name: Name
    identity: Name
    frechet: Any
    kernel: Any


class EvaluationRecord(Facts):
    """The first judge chooses the best evaluation and has further measures beside its distances."""

    iteration: Count
    seconds: Annotated[float, Field(ge=0)] | None = None
    num_samples: Count
    reference: str
    reference_images: Count
    batch_norm: Literal["standing", "running", "batch"] = "running"
    judges: Annotated[list[Judged], Field(min_length=1, max_length=100)]

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, record: Any) -> Any:
        return converted(record)

    @model_validator(mode="after")
    def _numbers(self) -> Self:
        said = self.model_extra or {}
        numbers = {name: said[name] for name in BESIDE if name in said}
        for name, value in (numbers | distances(self.model_dump())).items():
            if not isinstance(value, int | float) or not abs(value) < math.inf:
                raise ValueError(f"{name} is no number")
        return self


def is_evaluation(record: dict[str, Any]) -> bool:
    """Whether a line of metrics.jsonl is one, of this version or an earlier one."""
    return "judges" in record or "features" in record


def distances(record: dict[str, Any]) -> dict[str, Any]:
    """The distances by all judges, under their names."""
    return {
        judge[f"{kind}_name"]: judge[kind]
        for judge in record["judges"]
        for kind in ("frechet", "kernel")
    }


def converted(record: Any) -> Any:
    """A record of an earlier version in the form of this one, any other as it is.

    Distances were keys of the record, named by the judges; still earlier there was one judge, told
    by the keys alone.
    """
    if not isinstance(record, dict):
        return record
    judges = record.get("judges")
    if judges is None:
        frechet = next((key for key in record if key.startswith(("FID", "FD("))), "FD")
        kernel = next((key for key in record if key.startswith(("KID", "KD("))), "KD")
        judges = [{"frechet": frechet, "kernel": kernel, "identity": record.get("judge", "")}]
    if not isinstance(judges, list):
        return record
    return record | {"judges": [_converted(judge, record) for judge in judges]}


def _converted(judge: Any, record: dict[str, Any]) -> Any:
    if not isinstance(judge, dict) or "frechet_name" in judge:
        return judge
    names = {f"{kind}_name": judge.get(kind) for kind in ("frechet", "kernel")}
    values = {kind: record.get(str(judge.get(kind))) for kind in ("frechet", "kernel")}
    return judge | names | values


def evaluation(record: dict[str, Any], file: Path) -> dict[str, Any]:
    """The record with the types of `EvaluationRecord`, and `distances` among its keys.

    Raises:
        VkdError: it lacks something, or has text for a number.
    """
    record = checked(EvaluationRecord, record, file)
    return record | distances(record)
