"""The table of runs that nothing measures, since their settings name no judge."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from gan_vkd.evaluation.record import is_evaluation
from gan_vkd.game.settings import Settings
from gan_vkd.report.tables import Row
from gan_vkd.run import Run
from gan_vkd.runtime.facts import Count, Facts, checked

CAPTION = (
    "no distances, since evaluate.features = null: losses of the last iterations, which do not "
    "tell which samples are better; for distances call vkd evaluate RUN evaluate.features=... of "
    "each run, and compare them again"
)


class Losses(Facts):
    """A record of the losses, means over train.log_every iterations."""

    iteration: Count
    seconds: Annotated[float, Field(ge=0)]
    d_loss: float
    g_loss: float


def is_unjudged(run: Run) -> bool:
    """Whether a run names no judge, was never evaluated, and has recorded its losses."""
    if not (run.path / "settings.yaml").is_file() or run.settings().evaluate.judges:
        return False
    records = run.records("metrics")
    evaluated = any(map(is_evaluation, records)) or run.records("evaluations")
    return not evaluated and any("d_loss" in record for record in records)


@dataclass(frozen=True)
class Unjudged:
    """A run's settings and its last record of the losses."""

    settings: Settings
    last: dict[str, Any]

    @staticmethod
    def of(run: Run) -> "Unjudged":
        """Raises VkdError if the record is not one of losses."""
        last = [record for record in run.records("metrics") if "d_loss" in record][-1]
        return Unjudged(run.settings(), checked(Losses, last, run.path / "metrics.jsonl"))

    @property
    def identity(self) -> tuple[str, int]:
        return self.settings.arm, self.settings.seed

    def row(self) -> Row:
        iteration = self.last["iteration"]
        return {
            "arm": self.settings.arm,
            "seed": str(self.settings.seed),
            "at iteration": f"{iteration} of {self.settings.train.iterations}",
            "d_loss": f"{self.last['d_loss']:.3f}",
            "g_loss": f"{self.last['g_loss']:.3f}",
            "ms / iteration": f"{1000 * self.last['seconds'] / max(iteration, 1):.0f}",
        }
