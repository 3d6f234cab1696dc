"""A record of an evaluation: distances by every judge, and how the samples were drawn.

Records are validated when they are read, since the run folder may come from somebody else; records
of earlier versions are converted.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gan_vkd.runtime.facts import Count, Facts, checked

# Metrics beside the distances; `vkd compare` shows those that a record has
BESIDE = (
    "precision", "recall", "density", "coverage", "memorised", "memorised_by_chance",
    "memorised_left_out", "leaked", "leaked_by_chance",
)  # fmt: skip

Name = Annotated[str, Field(max_length=300)]


class Judged(Facts):
    """A judge's Frechet and kernel distance, their names, and the identity of its network."""

    frechet_name: Name
    kernel_name: Name
    identity: Name
    frechet: Any
    kernel: Any


class EvaluationRecord(Facts):
    """One evaluation. The first judge selects the best one and computes the metrics as well."""

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
        for name in distances(self.model_dump()):
            if name in type(self).model_fields:
                raise ValueError(f"{name} is no name of a distance")
        extra = self.model_extra or {}
        names = (*BESIDE, "training_images")
        numbers = {name: extra[name] for name in names if name in extra}
        for name, value in (numbers | distances(self.model_dump())).items():
            if not isinstance(value, int | float) or not abs(value) < math.inf:
                raise ValueError(f"{name} is not a finite number")
        return self


def is_evaluation(record: dict[str, Any]) -> bool:
    """Whether a line of metrics.jsonl records an evaluation, by this version or an earlier one."""
    return "judges" in record or "features" in record


def distances(record: dict[str, Any]) -> dict[str, Any]:
    """The distances by all judges, keyed by their names."""
    return {
        judge[f"{kind}_name"]: judge[kind]
        for judge in record["judges"]
        for kind in ("frechet", "kernel")
    }


def converted(record: Any) -> Any:
    """Converts a record of an earlier version; returns any other unchanged.

    In earlier versions the distances were keys of the record, named by the judges. In the earliest
    there was one judge, which only the names of these keys identify.
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
    """Validates a record as `EvaluationRecord` and adds its `distances` to its keys.

    Raises:
        VkdError: a key is missing, or a value is not a number.
    """
    record = checked(EvaluationRecord, record, file)
    return record | distances(record)
