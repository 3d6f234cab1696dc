"""`init_from`: the networks of a new run start from those of another run or of a file of weights.

Layers that depend on the number of classes are started anew where they do not fit.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gan_vkd.game.settings import Settings
from gan_vkd.game.trainer import Trainer
from gan_vkd.networks.interface import NETWORKS, Architecture
from gan_vkd.networks.stylegan2.published import without_other_filters
from gan_vkd.networks.weights import load_networks, require_finite
from gan_vkd.run import Run
from gan_vkd.runtime import ranks
from gan_vkd.runtime.checkpoint import digest, load_weights
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.facts import Facts, checked
from gan_vkd.runtime.files import user_path, write_text

NETWORK_NAMES = ("generator", "average", "discriminator")

State = dict[str, Tensor]


class NetworkFacts(Facts):
    """The networks in a checkpoint."""

    generator: dict[str, Any]
    average: dict[str, Any]
    discriminator: dict[str, Any]


class Fit(NamedTuple):
    """copied: number of tensors. anew: layers that did not fit. unused: of the source only."""

    copied: int
    anew: list[str]
    unused: list[str]

    def __str__(self) -> str:
        named = (("anew", self.anew), ("not used", self.unused))
        rest = "".join(f", {how}: {', '.join(names)}" for how, names in named if names)
        return f"{self.copied} tensors copied{rest}"


def start_from(settings: Settings, trainer: Trainer, run: Run) -> None:
    """Copies the networks of `settings.init_from`; prints and records what was copied.

    The record is init_from.json in the run folder, with a digest of the source's tensors.

    Raises:
        VkdError: the source cannot be read, has no generator, or has weights that do not fit.
    """
    where = f"init_from = {settings.init_from}"
    try:
        source = networks_of(user_path(str(settings.init_from)))
    except VkdError as error:
        raise VkdError(f"{where}: {error}") from None
    if "average" not in source:
        raise VkdError(f"{where}: no generator in it")
    networks = trainer.generator, trainer.ema.generator, trainer.discriminator
    fits: dict[str, Fit] = {}
    for name, network in zip(NETWORK_NAMES, networks, strict=True):
        if name in source:
            kind = "discriminator" if name == "discriminator" else "generator"
            varying = of_classes(settings, kind, trainer.generator.classes)
            fits[name] = copy_into(network, source[name], varying, f"{where}: {name}")
    every = ((f"{k}.{name}", x) for k, state in source.items() for name, x in state.items())
    identity = digest("", {name: x.contiguous() for name, x in every if isinstance(x, Tensor)})
    print(
        f"{where} (sha256 {identity[:12]}): generator and its EMA: {fits['average']}; "
        f"discriminator: {fits.get('discriminator', 'not in it, anew')}"
    )
    if ranks.is_first():
        record = {"source": settings.init_from, "sha256": identity}
        found = {name: fit._asdict() for name, fit in fits.items()}
        write_text(run.path / "init_from.json", json.dumps(record | found, indent=1) + "\n")


def networks_of(path: Path) -> dict[str, State]:
    """Returns the state dicts `generator`, `average` and `discriminator` of a run or a file.

    Those of a run are of its newest checkpoint; an imported run has no checkpoints, and the
    discriminator only if it was imported.
    """
    if not path.is_dir():
        found = load_networks(path)
    else:
        run = Run(path)
        saved = run.latest_state()
        if saved is not None:
            found = checked(NetworkFacts, saved.get("trained"), path)
        elif run.generator_file.is_file():
            average = load_weights(run.generator_file)[0]
            found = {"generator": average, "average": average}
            if run.discriminator_file.is_file():
                found["discriminator"] = load_weights(run.discriminator_file)[0]
        else:
            raise VkdError(f"{path}: no checkpoint or generator in this folder")
    return {name: found[name] for name in NETWORK_NAMES if name in found}


def of_classes(settings: Settings, kind: str, classes: int) -> set[str]:
    """Names of the tensors that depend on the number of classes, with and without classes."""
    network: Architecture = NETWORKS.make(settings.model.chosen)
    build = network.generator if kind == "generator" else network.discriminator
    with torch.device("meta"):
        networks = [build(settings.data.shape, count) for count in {0, classes, classes + 2}]
    shapes = [{name: x.shape for name, x in each.state_dict().items()} for each in networks]
    names = {name for found in shapes for name in found}
    return {name for name in names if len({found.get(name) for found in shapes}) > 1}


@torch.no_grad()
def copy_into(network: nn.Module, state: State, varying: set[str], where: str) -> Fit:
    """Copies a state dict, except layers with tensors that do not fit.

    Args:
        network: that is changed in place.
        state: of a network of the same architecture.
        varying: names of the tensors that may not fit.
        where: begins the messages of errors.

    Raises:
        VkdError: another tensor is missing, unknown or of another shape, or one is not finite.
    """
    own = network.state_dict()
    state = without_other_filters(state, own, where)
    unfit = {name for name in own.keys() | state.keys() if _shape(own, name) != _shape(state, name)}
    for name in sorted(unfit - varying):
        shapes = f"{_shape(state, name)} there and {_shape(own, name)} here"
        raise VkdError(f"{where}: of another network: {name} is {shapes}")
    anew = {_layer(name) for name in unfit}
    copied = [name for name in own if _layer(name) not in anew]
    for name in copied:
        own[name].copy_(state[name])
    require_finite(network, where)
    here = {_layer(name) for name in own}
    return Fit(len(copied), sorted(anew & here), sorted(anew - here))


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _shape(state: dict[str, Any], name: str) -> str:
    value = state.get(name)
    if not isinstance(value, Tensor):
        return "missing"
    return " x ".join(map(str, value.shape)) or "a scalar"
