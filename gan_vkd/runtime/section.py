"""Base class of settings: a pydantic model that refuses values without effect."""

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)

    @property
    def idle(self) -> dict[str, str]:
        """Keys that have no effect given the other settings, each with the reason."""
        return {}

    def _unless(self, key: str, owner: str, *names: str) -> dict[str, str]:
        """Returns the names as idle keys unless the setting `key` is `owner`."""
        chosen = getattr(self, key)
        why = f"belongs to {key} = {owner}, but {key} = {chosen}"
        return {} if chosen == owner else dict.fromkeys(names, why)

    @model_validator(mode="after")
    def _nothing_idle_is_set(self) -> Self:
        for name, why in self.idle.items():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} {why}")
        return self
