"""The settings for sampling a generator."""

from typing import Literal

from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings import Positive, Seed


class SamplingSettings(Section):
    """How the EMA generator is sampled."""

    batch_size: Positive = 100
    seed: Seed = 0
    # statistics of the sampled generator's batch norm: re-estimated for its weights, the stored
    # running ones, or those of each batch of samples
    batch_norm: Literal["standing", "running", "batch"] = "standing"
    standing_batches: Positive = 16  # of batch_size samples each, for the estimate

    @property
    def idle(self) -> dict[str, str]:
        return self._unless("batch_norm", "standing", "standing_batches")

    @property
    def inseparable(self) -> int:
        """Number of samples that depend on each other through batch norm."""
        return self.batch_size if self.batch_norm == "batch" else 1
