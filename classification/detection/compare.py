"""Comparison of detection runs: AP, and the updates until an AP50 was reached."""

import statistics
from functools import partial
from pathlib import Path

from classification.detection.evaluation import MEASURES
from classification.detection.run import Run
from classification.detection.settings import DetectionSettings
from classification.epochs.comparison import EvaluationFacts, Measured, Percent
from classification.epochs.comparison import compare as compare_arms
from classification.epochs.page import subject
from gan_vkd.report.page.write import write_report


class DetectionFacts(EvaluationFacts):
    """COCO's measures in percent; undefined ones are left out."""

    AP: Percent
    AP50: Percent
    AP75: Percent | None = None
    AP_S: Percent | None = None
    AP_M: Percent | None = None
    AP_L: Percent | None = None


class Detected(Measured):
    """A detection run's evaluations.

    Args:
        run: the run folder.
        target: AP50 in percent, for the columns of updates until it is reached.
    """

    key, name, facts = "AP", "AP", DetectionFacts
    settings: DetectionSettings

    def __init__(self, run: Run, target: float) -> None:
        super().__init__(run)
        self.settings, self.target = run.settings(), target

    @property
    def caption(self) -> str:
        data, train = self.settings.data, self.settings.train
        layers = self.settings.evaluate.layers
        dropped = "" if layers is None else f", by the first {layers} layers of the neck"
        share = f"{data.num_images:,} images" if data.num_images is not None else "all images"
        return (
            f"AP in percent on {data.heldout} ({self.last['images']:,} images) of {data.root}, "
            f"after {train.epochs} epochs of {data.train}, {share}, at "
            f"{self.settings.evaluate.scale} pixels{dropped}"
        )

    @property
    def teachers(self) -> str:
        teacher = self.settings.teacher
        return "" if teacher is None else f"ViDT {teacher.size}"

    @property
    def _updates(self) -> dict[str, int]:
        """The number of evaluations averaged, by column of the updates to the target."""
        name = f"updates to AP50 {self.target:g}"
        return {name: 1, f"{name}, mean of 3": 3}

    @property
    def compared(self) -> list[str]:
        return ["AP", *self._updates]

    def numbers(self) -> dict[str, float]:
        numbers = {name: self.last[name] for name in MEASURES if self.last[name] is not None}
        for name, averaged in self._updates.items():
            for end in range(averaged, len(self.evaluations) + 1):
                part = [record["AP50"] for record in self.evaluations[end - averaged : end]]
                if statistics.fmean(part) >= self.target:
                    numbers[name] = self.evaluations[end - 1]["iteration"]
                    break
        return numbers


def compare(folders: list[Path], out: Path, baseline: str = "plain", target: float = 50.0) -> str:
    """Writes tables and curves of run folders (`classification.epochs.comparison.compare`).

    Two columns are added: the first evaluated update with an AP50 of at least `target` percent, and
    the first at which the mean of three consecutive evaluations is.

    Raises:
        VkdError: a folder that is not a run, or was never evaluated; two runs of one arm and seed.
    """
    return compare_arms([Detected(Run(folder), target) for folder in folders], out, baseline)


DETECTORS = subject(Run, partial(Detected, target=50.0))
report = partial(write_report, DETECTORS)
