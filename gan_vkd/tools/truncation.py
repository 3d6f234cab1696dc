"""Truncation sweep: the same seeds, and the measured distances, at several psi."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from gan_vkd.evaluation.evaluator import Evaluator
from gan_vkd.evaluation.record import BESIDE, distances
from gan_vkd.networks.interface import Generator
from gan_vkd.report.tables import Row
from gan_vkd.tools.captions import captioned
from gan_vkd.tools.inputs import inputs_of, pictures, truncate


def truncation_grid(
    generator: Generator, shares: Sequence[float], seeds: list[int], psis: list[float], run: Path
) -> Tensor:
    """A captioned grid with a row for each seed and a column for each psi; the last psi is kept.

    Raises:
        SettingsError: the network has no truncation.
    """
    latents, labels = inputs_of(generator, shares, seeds)
    columns = []
    for psi in psis:
        truncate(generator, psi, run)
        columns.append(pictures(generator, latents, labels))
    images = torch.stack(columns, 1).flatten(0, 1)
    return captioned(images, [f"psi {psi:g}" for psi in psis], [f"seed {seed}" for seed in seeds])


def truncation_table(
    generator: Generator, shares: list[float], psis: list[float], run: Path, evaluator: Evaluator
) -> list[Row]:
    """A row for each psi: distances by all judges, precision, recall and the other metrics.

    Raises:
        SettingsError: the network has no truncation.
    """
    rows = []
    for psi in psis:
        truncate(generator, psi, run)
        record = evaluator(generator, shares)
        beside = {name: record[name] for name in BESIDE if name in record}
        measured = (distances(record) | beside).items()
        rows.append({"psi": f"{psi:g}"} | {name: f"{value:.4g}" for name, value in measured})
    return rows
