"""The settings for sampling a generator."""

from typing import Annotated, Literal

from pydantic import Field

from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings import BatchSize, Seed


class SamplingSettings(Section):
    """How the EMA generator is sampled."""

    batch_size: BatchSize = 100
    """Samples that are drawn at once."""
    seed: Seed = 0
    """Of latents and classes."""
    batch_norm: Literal["standing", "running", "batch"] = "standing"
    """Statistics of the sampled generator's batch norm: re-estimated for its weights, the stored
    running ones, or those of each batch of samples."""
    standing_batches: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Batches, of batch_size samples each, for the estimate."""

    @property
    def idle(self) -> dict[str, str]:
        return self._unless("batch_norm", "standing", "standing_batches")

    @property
    def inseparable(self) -> int:
        """Number of samples that depend on each other through batch norm."""
        return self.batch_size if self.batch_norm == "batch" else 1
