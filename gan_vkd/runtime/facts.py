"""The facts beside exported weights, checked by a schema: the file may be a stranger's."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.settings_faults import in_one_clause


class Facts(BaseModel):
    """What a file must say; it may say more."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


def checked(schema: type[Facts], facts: Any, file: Path) -> dict[str, Any]:
    """The facts, of the schema's types and within its limits.

    Raises:
        VkdError: others; the first fault in one line.
    """
    try:
        return schema.model_validate(facts).model_dump()
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part)[:40] for part in fault["loc"]) or "facts"
        raise VkdError(
            f"{file}: not a file of ours: {where}: {in_one_clause(fault)[:200]}"
        ) from None
