"""The batch norm statistics of a generator that is sampled.

The EMA generator has averaged running statistics, which lag behind its weights. This module
re-estimates them (standing statistics: Brock et al., ICLR 2019, appendix C.1), or replaces them by
those of each sampled batch.
"""

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from gan_vkd.distill.precision import at_least_float32
from gan_vkd.networks.interface import Generator
from gan_vkd.networks.layers import Standardization
from gan_vkd.networks.sampling import draw_inputs
from gan_vkd.networks.settings import SamplingSettings


def as_sampled(generator: Generator, shares: list[float], settings: SamplingSettings) -> Generator:
    """Returns a frozen copy in eval mode, with batch norm according to the settings.

    `standing`: statistics are re-estimated, from other latents than those of the evaluation's
    samples. `batch`: statistics of each batch. `running`: the stored statistics.
    """
    sampled = copy.deepcopy(generator).eval().requires_grad_(False)
    normalize_by_batch(sampled, settings.batch_norm == "batch")
    if settings.batch_norm == "standing" and sampled.batch_norms():
        batches, size = settings.standing_batches, settings.batch_size
        restandardize(sampled, shares, batches, size, settings.seed + 1)
    return sampled


def normalize_by_batch(generator: Generator, chosen: bool) -> None:
    """Sets whether the batch norms use the statistics of each batch in eval mode."""
    for norm in generator.batch_norms():
        norm.of_batch = chosen


@torch.no_grad()
def restandardize(
    generator: Generator, shares: list[float], batches: int, batch_size: int, seed: int
) -> None:
    """Sets the running statistics to the mean and unbiased variance over freshly drawn batches.

    During the estimate each batch is normalised by its own statistics, as in training. Nothing else
    in the generator changes, and the global random state is not used. There is no communication
    between ranks: all compute the same statistics, and a single rank may call this.

    Args:
        generator: in eval mode.
        shares: frequencies of the classes.
        batches, batch_size: number and size of the batches of latents and labels.
        seed: of the latents and labels.
    """
    moments: dict[Standardization, list[Tensor]] = defaultdict(list)
    counts: dict[Standardization, int] = {}

    def collect(norm: Standardization, args: tuple[Any, ...]) -> None:
        x = at_least_float32(args[0])
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        moments[norm].append(torch.stack([mean, variance]).double())
        counts[norm] = batches * x.numel() // x.shape[1]

    norms, device = generator.batch_norms(), next(generator.parameters()).device
    hooks = [norm.register_forward_pre_hook(collect) for norm in norms]
    normalize_by_batch(generator, True)
    latents, labels = draw_inputs(generator, shares, batches * batch_size, seed)
    for z, y in zip(latents.split(batch_size), labels.split(batch_size), strict=True):
        generator(z.to(device), y.to(device))
    normalize_by_batch(generator, False)
    for hook in hooks:
        hook.remove()
    for norm, found in moments.items():
        means, variances = torch.stack(found).unbind(1)
        variance = variances.mean(0) + means.var(0, correction=0)  # within batches and between
        norm.stored_mean.copy_(means.mean(0))
        norm.stored_var.copy_(variance * counts[norm] / (counts[norm] - 1))
