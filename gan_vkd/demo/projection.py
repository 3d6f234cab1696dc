"""The projection of an uploaded picture, as it goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from gan_vkd.data.image_set import to_uint8
from gan_vkd.demo.runs import Shown
from gan_vkd.game.settings import load_settings
from gan_vkd.runtime.errors import VkdError
from gan_vkd.tools.projection_files import save_projection
from gan_vkd.tools.projection_of_run import search_in

SHOWN = 100  # steps that are shown at most


class Course(NamedTuple):
    """The state of a projection.

    target, image: uint8 (C, H, W). name: for the image's file. line: how far it is. files: what has
    been found, at the end.
    """

    target: Tensor
    image: Tensor
    name: str
    line: str
    files: list[Path]


def projected(
    run: Shown,
    picture: Path,
    space: str | None,
    chosen: str | None,
    steps: int,
    seed: int,
    folder: Path,
) -> Iterator[Course]:
    """Yields the course of a projection; it ends when no more is asked for.

    Args:
        run: whose latent space is searched, with an own copy of its generator.
        picture: image file, decoded within the limits of the run's data.
        space: w, w+ or z; None: w if the network has it.
        chosen: name or number of a class; None: any.
        steps, seed: of the search.
        folder: for the files, which are those of `vkd project`.

    Raises:
        SettingsError: no such space or class.
        VkdError: no image, or no network to take the distance on.
    """
    settings = load_settings(run.path, ["data.download=false"])
    device = str(next(run.generator.parameters()).device)
    try:
        search, target = search_in(run.path, settings, picture, space, chosen, steps, seed, device)
    except VkdError as error:  # an uploaded file has a path that says nothing to its owner
        raise VkdError(str(error).replace(str(picture), picture.name)) from None
    wanted = to_uint8(target[0]).cpu()
    for step in range(1, steps + 1):
        search.step()
        if step % -(-steps // SHOWN) == 0:
            perceptual, pixels = search.course[-1].tolist()
            line = f"step {step} of {steps}: perceptual distance {perceptual:.4g}, "
            line += f"mean square of pixels {pixels:.4g}"
            yield Course(wanted, to_uint8(search.image[0]).cpu(), f"step{step:05d}.png", line, [])
    found = search.found()
    line = save_projection(found, target, {"seed": seed, "steps": steps}, folder, None)
    files = sorted(folder.iterdir())
    yield Course(
        wanted, found.image.cpu(), "projected.png", line.removeprefix(f"{folder}: "), files
    )
