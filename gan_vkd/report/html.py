"""The page about GANs (gan_vkd/report/page), by `vkd report` and in training."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gan_vkd.evaluation.few import ADVICE, WARNINGS
from gan_vkd.evaluation.record import evaluation, is_evaluation
from gan_vkd.report.compare import Measured, tables_of
from gan_vkd.report.page.pictures import Source, Strip, single, strip
from gan_vkd.report.page.subject import Subject
from gan_vkd.report.page.views import View
from gan_vkd.report.page.write import write_report
from gan_vkd.run import Run


def _record(line: dict[str, Any], file: Path) -> dict[str, Any]:
    return evaluation(line, file) if is_evaluation(line) else line


def _distances(run: Measured) -> dict[str, float]:
    return {judge.frechet: run.records[-1][judge.frechet] for judge in run.judges}


def _warnings(run: Measured) -> list[str]:
    return [f"{name}: {WARNINGS[name]}; {ADVICE}" for name in run.warnings]


def _strips(views: Sequence[View[Any]], source: Source) -> list[Strip]:
    nearest = (
        "In each row a sample of the best evaluation, then the training images nearest to it by "
        "the first judge's features: copies would look alike."
    )
    of_scores = "By the discriminator, of training, held-out and generated images."
    return [
        strip("Samples", "Of the same latents and classes.", views, "samples", source),
        single("Nearest training images", nearest, views, "neighbours.png", source),
        strip("Histograms of scores", of_scores, views, "scores", source, is_plot=True),
    ]


GANS = Subject[Measured](Run, _record, Measured.of, tables_of, _distances, _warnings, _strips)
report = partial(write_report, GANS)
