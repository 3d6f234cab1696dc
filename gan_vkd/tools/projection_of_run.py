"""A projection into the latent space of a run: its generator, its judge, and the target."""

from pathlib import Path

from torch import Tensor

from gan_vkd.game.settings import Settings
from gan_vkd.tools.inputs import load, shares_of
from gan_vkd.tools.latent_spaces import space_named
from gan_vkd.tools.perceptual import Distance, load_network
from gan_vkd.tools.projection import Search
from gan_vkd.tools.projection_files import read_target


def search_in(
    run: Path,
    settings: Settings,
    picture: Path,
    space: str | None,
    chosen: str | None,
    steps: int,
    seed: int,
    device: str,
) -> tuple[Search, Tensor]:
    """Loads what a projection needs; returns its search, and the target (1, C, H, W) in [-1, 1].

    Args:
        run: folder of the run.
        settings: of the run, with the judge.
        picture: image file.
        space: w, w+ or z; None: w if the network has it.
        chosen: name or number of a class; None: any.
        steps, seed: of the search.
        device: as in the settings.

    Raises:
        SettingsError: no such space or class.
        VkdError: a file that is missing or damaged, or no image.
    """
    generator, facts = load(run, device)
    target = read_target(picture, settings.data, generator)
    distance = Distance(load_network(settings, run, str(target.device)), target)
    searched = space_named(space, generator, shares_of(facts, chosen), seed, distance, run)
    return Search(searched, distance, steps, seed), target
