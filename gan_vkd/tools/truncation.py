"""Truncation sweep: the same seeds, and the measured distances, at several psi."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from gan_vkd.evaluation.evaluator import Evaluator
from gan_vkd.evaluation.record import BESIDE, distances
from gan_vkd.game.settings import Settings
from gan_vkd.networks.interface import Generator
from gan_vkd.networks.standing import as_sampled
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
    generator: Generator, shares: list[float], psis: list[float], run: Path, settings: Settings
) -> list[Row]:
    """A row for each psi: distances by all judges, precision, recall and the other metrics.

    Args:
        generator: on the device where it is measured.
        shares: frequencies of the classes.
        psis: truncations.
        run: that errors name.
        settings: of the run, with those of the evaluation.

    Raises:
        SettingsError: the network has no truncation.
        VkdError: a judge or a set of images is missing.
    """
    device = str(next(generator.parameters()).device)
    data = settings.data.of_channels(generator.shape.channels)
    evaluator = Evaluator(settings.evaluate, data, device, cache=settings.cache_folder)
    sampled = as_sampled(generator, shares, settings.evaluate)
    rows = []
    for psi in psis:
        truncate(sampled, psi, run)
        record = evaluator(sampled, shares)
        beside = {name: record[name] for name in BESIDE if name in record}
        measured = (distances(record) | beside).items()
        rows.append({"psi": f"{psi:g}"} | {name: f"{value:.4g}" for name, value in measured})
    return rows
