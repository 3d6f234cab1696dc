"""Validation of the facts stored with exported weights, whose file may be untrusted."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.settings_faults import in_one_clause

Count = Annotated[int, Field(ge=0, lt=2**53)]  # what a double can count to


class Facts(BaseModel):
    """Base class of schemas of facts; keys beyond the schema's are allowed."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


def checked(schema: type[Facts], facts: Any, file: Path) -> dict[str, Any]:
    """Returns the facts, validated and converted by the schema.

    Raises:
        VkdError: the facts do not fit the schema; the message names the first error.
    """
    try:
        return schema.model_validate(facts).model_dump()
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part)[:40] for part in fault["loc"]) or "facts"
        raise VkdError(
            f"{file}: not a file of this project: {where}: {in_one_clause(fault)[:200]}"
        ) from None
