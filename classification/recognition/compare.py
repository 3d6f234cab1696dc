"""Comparison of classification runs: top-1 and top-5."""

from functools import partial
from pathlib import Path

from classification.epochs.comparison import EvaluationFacts, Measured, Percent
from classification.epochs.comparison import compare as compare_arms
from classification.epochs.page import subject
from classification.recognition.run import Run
from classification.recognition.settings import ClassifierSettings
from gan_vkd.report.page.write import write_report


class RecognitionFacts(EvaluationFacts):
    """The keys of a record; both accuracies are in percent."""

    top1: Percent
    top5: Percent


class Recognised(Measured):
    """A classification run's evaluations."""

    key, name, facts = "top1", "top-1", RecognitionFacts
    settings: ClassifierSettings

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.settings = run.settings()

    @property
    def caption(self) -> str:
        data, train = self.settings.data, self.settings.train
        share = f", {data.fraction:.0%}" if data.fraction is not None else ""
        share = f", {data.num_images:,} images" if data.num_images is not None else share
        return (
            f"top-1 in percent on {data.heldout} ({self.last['images']:,} images), after "
            f"{train.epochs} epochs of {data.source}{share} at {data.resolution} pixels"
        )

    @property
    def teachers(self) -> str:
        return ", ".join(network.name for network in self.settings.teachers.values())

    def numbers(self) -> dict[str, float]:
        return {"top-1": self.last["top1"], "top-5": self.last["top5"]}


def compare(folders: list[Path], out: Path, baseline: str = "plain") -> str:
    """Writes tables and curves of run folders (`classification.epochs.comparison.compare`).

    Raises:
        VkdError: a folder that is not a run, or was never evaluated; two runs of one arm and seed.
    """
    return compare_arms([Recognised(Run(folder)) for folder in folders], out, baseline)


STUDENTS = subject(Run, Recognised)
report = partial(write_report, STUDENTS)
