"""What a picture is made from: a run's generator, and the latent and class of a seed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_vkd.data.image_set import to_uint8
from gan_vkd.networks.interface import Generator
from gan_vkd.networks.sampling import draw_inputs
from gan_vkd.networks.standing import normalize_by_batch
from gan_vkd.run import Run
from gan_vkd.runtime.bars import progress_bar
from gan_vkd.runtime.devices import pick_device
from gan_vkd.runtime.errors import SettingsError


def load(
    run: Path, device: str, psi: float = 1.0, alone: bool = True
) -> tuple[Generator, dict[str, Any]]:
    """Loads a run's best generator and its facts (iteration, classes, shares, names).

    Args:
        run: folder of the run.
        device: as in the settings.
        psi: truncation.
        alone: use the stored statistics of batch norm even if the run is sampled with those of each
            batch, so that a picture does not depend on the other ones.

    Raises:
        SettingsError: a truncation other than 1 of a network that has none.
        VkdError: no generator, or no such device.
    """
    generator, facts = Run(run).load_generator(pick_device(device))
    if alone:
        normalize_by_batch(generator, False)
    if psi != 1:
        truncate(generator, psi, run)
    return generator, facts


def truncate(generator: Generator, psi: float, run: Path) -> None:
    """Sets the truncation; raises SettingsError if the network has none."""
    try:
        generator.truncate(psi)
    except ValueError as error:
        raise SettingsError(f"--truncation: the network of {run} {error}") from None


def shares_of(facts: dict[str, Any], chosen: str | None) -> list[float]:
    """Frequencies of the classes: all of the chosen one, or those of the training set.

    Args:
        facts: of the generator.
        chosen: name of a class, or its number from 0 on if no class has that name; None: any.

    Raises:
        SettingsError: no such class, or an unconditional generator.
    """
    if chosen is None:
        return facts["shares"]
    count, names = facts["classes"], facts["names"]
    if not count:
        raise SettingsError(f"--class {chosen}: the run's generator has no classes")
    if chosen in names:
        label = names.index(chosen)
    elif chosen.isdecimal() and int(chosen) < count:
        label = int(chosen)
    else:
        known = f" ({', '.join(names[:10])}{', ...' if count > 10 else ''})" if names else ""
        raise SettingsError(f"--class {chosen}: not a class of the run: 0 to {count - 1}{known}")
    return [float(index == label) for index in range(count)]


def inputs_of(
    generator: Generator, shares: Sequence[float], seeds: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Latents (N, z_dim) and labels (N,) of the seeds, on the generator's device.

    A seed has the same latent whatever the other seeds and the shares are.
    """
    drawn = [draw_inputs(generator, list(shares), 1, seed) for seed in seeds]
    device = next(generator.parameters()).device
    latents, labels = (torch.cat(parts).to(device) for parts in zip(*drawn, strict=True))
    return latents, labels


@torch.no_grad()
def pictures(make: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """uint8 pictures (N, C, H, W) of N rows of inputs.

    Each is made alone: sums in another order, of another batch size, differ by rounding.
    """
    rows = progress_bar(list(zip(*inputs, strict=True)), "pictures")
    return torch.cat([to_uint8(make(*(value[None] for value in row))) for row in rows])
