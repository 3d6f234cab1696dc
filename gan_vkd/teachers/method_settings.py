"""The settings of a loss on a teacher's features; apart from the losses, which import torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from gan_vkd.runtime.settings import Fraction, Positive, number_or
from gan_vkd.runtime.settings_file import Section

Shrinkage = Annotated[
    float | Literal["auto", "ledoit_wolf", "oas"],
    number_or(
        "auto", "ledoit_wolf", "oas", number="a number from 0 to 1", fits=lambda x: 0 <= x <= 1
    ),
]


class WhiteningSettings(Section):
    momentum: Fraction = 0.0
    eps: Annotated[float, Field(ge=0)] = 1e-5
    # auto: width of a group / (that + samples)
    shrinkage: Shrinkage = "auto"
    # principal directions that are kept: so many, a share of the variance, those that agree in two
    # augmented views of an image; null: all
    directions: int | float | Literal["agreement"] | None = None
    agreement: Annotated[float, Field(gt=0, le=1)] = 0.5  # the least correlation of the two views
    every: Positive = 100
    groups: Positive = 1

    @field_validator("directions", mode="before")
    @classmethod
    def _number_or_share(cls, value: Any) -> Any:
        known = value is None or value == "agreement"
        number = type(value) is int and value >= 1
        share = type(value) is float and 0 < value < 1
        if not (known or number or share):
            raise ValueError("expected a whole number, a share below 1, agreement or null")
        return value

    @property
    def idle(self) -> dict[str, str]:
        return self._unless("directions", "agreement", "agreement")

    @model_validator(mode="after")
    def _counts_samples(self) -> Self:
        if self.shrinkage in ("ledoit_wolf", "oas") and self.momentum > 0:
            raise ValueError(f"shrinkage = {self.shrinkage} counts samples: set momentum = 0")
        return self


Method = Literal["vkd", "fitnets", "pkd", "spkd", "rkd", "vicreg"]
Distance = Literal["mse", "smooth_l1", "l1", "norm", "cosine"]


class MethodSettings(Section):
    """A loss on features, by name, with what it needs (gan_vkd.distill)."""

    method: Method = "vkd"
    projection: Literal[
        "orthogonal",
        "orthogonal_fixed",
        "orthogonal_static",
        "orthogonal_full",
        "cayley",
        "householder",
        "linear",
        "mlp",
        "identity",
    ] = "orthogonal"
    normalization: Literal[
        "whitening",
        "whitening_pca",
        "whitening_cholesky",
        "phi_s",
        "layer_norm",
        "standardize",
        "l2",
        "none",
    ] = "whitening"
    whitening: WhiteningSettings = WhiteningSettings()  # of the first three
    statistics: Literal["running", "batch"] = "running"  # what a batch is normalised by
    distance: Distance = "mse"
    pkd_form: Literal["paper", "code"] = "paper"  # the code's loss is a batch's size times smaller

    @model_validator(mode="after")
    def _statistics_fit(self) -> Self:
        fitted = self.whitens or self.normalization in ("standardize", "phi_s")
        if self.statistics != "running" and not (self.method == "vkd" and fitted):
            normalization = self.normalization if self.method == "vkd" else self.method
            raise ValueError(f"statistics = {self.statistics}, but {normalization} has none")
        directions = self.whitening.directions
        if directions is not None and self.normalization == "whitening_cholesky":
            raise ValueError("whitening.directions: a cholesky factor has none, leave them out")
        if directions == "agreement" and self.statistics in ("running", "batch"):
            raise ValueError("whitening.directions = agreement needs statistics = training_set")
        return self

    @property
    def idle(self) -> dict[str, str]:
        names = "projection", "normalization", "whitening", "distance"
        without = f"belongs to a whitening, but normalization = {self.normalization}"
        none = {} if self.whitens else {"whitening": without}
        vkd = self._unless("method", "vkd", *names)
        return none | vkd | self._unless("method", "pkd", "pkd_form")

    def options(self) -> dict[str, Any]:
        """What the class of the method takes."""
        if self.method == "pkd":
            return {"form": self.pkd_form}
        if self.method != "vkd":
            return {}
        return {
            "projection": self.projection,
            "normalization": self.normalization,
            "distance": self.distance,
            **({"statistics": "batch"} if self.statistics == "batch" else {}),
            **(self.whitening.model_dump() if self.whitens else {}),
        }

    @property
    def whitens(self) -> bool:
        return self.normalization.startswith("whitening")
