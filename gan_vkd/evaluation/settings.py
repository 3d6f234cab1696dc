"""The settings of an evaluation."""

from typing import Annotated

from pydantic import Field, model_validator

from gan_vkd.evaluation.metrics import METRICS
from gan_vkd.networks.settings import SamplingSettings
from gan_vkd.runtime.components import Choice, OneOf
from gan_vkd.runtime.settings import Positive
from gan_vkd.teachers.settings import NetworkSettings

# clean-fid's modes by name. A mode says how images are resized: before the network by Pillow, or
# inside the network, as in the TensorFlow code that the published figures were computed with
INCEPTION = {"inception": "clean", "inception_legacy_tensorflow": "legacy_tensorflow"}


class EvaluateSettings(SamplingSettings):
    every: Positive = 4000
    """Iterations between two evaluations."""
    features: NetworkSettings | None = NetworkSettings(name="inception")
    """The first judge, the network on whose features distances are taken; it selects the best
    generator. null: nothing is measured, and the latest generator is exported."""
    also: list[NetworkSettings] = []
    """Further judges of the same samples: distances only."""
    reference: str = "heldout"
    """The images that samples are compared with: `heldout`, `train`, or the path of a folder or
    zip."""
    num_samples: Annotated[int, Field(ge=2, le=10_000_000)] = 10_000
    """Number of samples of an evaluation."""
    metrics: list[Annotated[Choice, OneOf(METRICS)]] = Field(
        default=[
            "inception_score",
            "precision_recall",
            "density_coverage",
            "memorisation",
            "leak",
        ],
        validate_default=True,
    )
    """What is computed beside the distances, most of it by the first judge."""

    @property
    def judges(self) -> list[NetworkSettings]:
        return [] if self.features is None else [self.features, *self.also]

    @property
    def idle(self) -> dict[str, str]:
        return super().idle | (
            {} if self.features else {"also": "needs a first judge, but features = null"}
        )

    @model_validator(mode="after")
    def _whole_batches(self) -> "EvaluateSettings":
        if self.num_samples % self.inseparable:
            raise ValueError(
                f"batch_norm = batch needs whole batches, but num_samples = {self.num_samples} is "
                f"not a multiple of batch_size = {self.batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _inception_as_it_is(self) -> "EvaluateSettings":
        for judge in self.judges:
            plain = NetworkSettings(name=judge.name, weights=judge.weights)
            if judge.name in INCEPTION and judge != plain:
                key = "features" if judge is self.features else "also"
                raise ValueError(f"{key}: {judge.name} accepts only name and weights")
        return self
