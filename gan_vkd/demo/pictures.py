"""Pictures of the demo, from the values that are chosen on its page."""

from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from gan_vkd.demo.runs import Shown
from gan_vkd.report.pictures import grid
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.tools.inputs import inputs_of, pictures, shares_of
from gan_vkd.tools.interpolation import interpolated, points, space_of
from gan_vkd.tools.seeds import parse_seeds

MOST = 64  # pictures at a time
COLUMNS = 8  # of a strip


class Picture(NamedTuple):
    """A uint8 image (C, H, W) with the name of its file and its caption."""

    image: Tensor
    name: str
    caption: str


def few_seeds(text: str) -> list[int]:
    """Reads a list of seeds such as 0-15,42.

    Raises:
        SettingsError: another form, or more than MOST.
    """
    seeds = parse_seeds(text, "seeds")
    if len(seeds) > MOST:
        raise SettingsError(f"{len(seeds)} seeds: at most {MOST} are drawn at a time")
    return seeds


def drawn(run: Shown, seeds: str, chosen: str | None, psi: float) -> list[Picture]:
    """A picture for each seed.

    Args:
        run: whose generator is taken.
        seeds: such as 0-15,42.
        chosen: name or number of a class; None: that of the seed.
        psi: truncation, unused if the network has none.

    Raises:
        SettingsError: no such seeds, or no such class.
    """
    numbers, shares = few_seeds(seeds), shares_of(run.facts, chosen)
    with run.truncated(psi) as generator:
        latents, labels = inputs_of(generator, shares, numbers)
        return _captioned(run, pictures(generator, latents, labels), numbers, labels)


def between(
    run: Shown, first: int, second: int, steps: int, chosen: str | None, psi: float
) -> tuple[Tensor, list[Tensor]]:
    """An interpolation between two seeds.

    Args:
        run, chosen, psi: as in `drawn`.
        first, second: seeds.
        steps: from the first to the second one.

    Returns:
        A uint8 picture (C, H, W) of the steps + 1 images, and the 2 * steps frames (C, H, W) of a
        walk to the second seed and back.

    Raises:
        SettingsError: no such seed, or no such class.
    """
    seeds = few_seeds(f"{first},{second}")
    with run.truncated(psi) as generator:
        latents, labels = points(generator, run.facts, seeds, [chosen])
        space = space_of(generator, None, run.path)
        frames = list(interpolated(generator, latents, labels, steps, space))
    there = torch.stack(list(islice(frames, steps + 1)))
    return grid(there, COLUMNS), frames


def compared(
    run: Shown, other: Shown, seeds: str, chosen: str | None, psi: float
) -> tuple[list[Picture], list[Picture]]:
    """Pictures of two runs from the same latents z.

    Without a chosen class, both have the class of the seed if their classes have the same names;
    otherwise each has the one that it draws.

    Args:
        run, seeds, chosen, psi: as in `drawn`.
        other: the second run.

    Raises:
        SettingsError: latents of different widths, no such seeds, or no such class.
    """
    width, another = run.generator.z_dim, other.generator.z_dim
    if width != another:
        raise SettingsError(
            f"no z is common to both: it has {width} values in {run.path} and {another} in "
            f"{other.path}"
        )
    numbers = few_seeds(seeds)
    of_run, of_other = shares_of(run.facts, chosen), shares_of(other.facts, chosen)
    with run.truncated(psi) as generator:
        latents, labels = inputs_of(generator, of_run, numbers)
        left = _captioned(run, pictures(generator, latents, labels), numbers, labels)
    with other.truncated(psi) as generator:
        if run.classes != other.classes:
            labels = inputs_of(generator, of_other, numbers)[1]
        right = _captioned(other, pictures(generator, latents, labels), numbers, labels)
    return left, right


def _captioned(run: Shown, images: Tensor, seeds: list[int], labels: Tensor) -> list[Picture]:
    made = []
    for image, seed, label in zip(images.cpu(), seeds, labels.tolist(), strict=True):
        name = run.facts["names"][label] if run.facts["names"] else f"class {label}"
        caption = f"seed {seed}, {name}" if run.classes else f"seed {seed}"
        made.append(Picture(image, f"seed{seed:06d}.png", caption))
    return made
