"""The batch norm of a generator that is sampled: its statistics must be those of its own weights.

The averaged generator keeps an average of running statistics, which lags behind its weights. They
are re-estimated here (standing statistics: Brock et al., ICLR 2019, appendix C.1), or left out in
favour of those of each sampled batch.
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
    """A frozen copy in eval mode, with batch norm as the settings say.

    `standing`: with statistics that are estimated now, from other latents than those of the
    evaluation's samples. `batch`: by the statistics of each batch. `running`: as it is.
    """
    sampled = copy.deepcopy(generator).eval().requires_grad_(False)
    normalize_by_batch(sampled, settings.batch_norm == "batch")
    if settings.batch_norm == "standing":
        batches, size = settings.standing_batches, settings.batch_size
        restandardize(sampled, shares, batches, size, settings.seed + 1)
    return sampled


def normalize_by_batch(generator: Generator, chosen: bool) -> None:
    """Whether its batch norms take the statistics of each batch in eval mode."""
    for norm in generator.batch_norms():
        norm.of_batch = chosen


@torch.no_grad()
def restandardize(
    generator: Generator, shares: list[float], batches: int, batch_size: int, seed: int
) -> None:
    """Sets the running statistics to the mean and variance (n - 1) over all of the batches.

    Each batch is normalised by its own statistics on its way through, as in training. Nothing else
    of the generator changes, and no random numbers but the seed's are drawn. Every rank does the
    same, without the others: all get the same statistics, and one may do it alone.

    Args:
        generator: in eval mode.
        shares: frequencies of the classes.
        batches, batch_size: of latents and labels drawn for it.
        seed: of those.
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
