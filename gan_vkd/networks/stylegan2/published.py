"""Weights of StyleGAN2-ADA's published code: what their names and shapes say about the networks."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gan_vkd.data.shape import Shape
from gan_vkd.networks.stylegan2.architecture import widths_of
from gan_vkd.networks.stylegan2.resampling import binomial_filter
from gan_vkd.runtime.errors import VkdError

FILTER = ".resample_filter"
BLOCK = re.compile(r"synthesis\.b(\d{1,4})\.conv1\.weight")
FIRST = "synthesis.b4.const"  # the input of the generator

State = Mapping[str, Tensor]


class Described(NamedTuple):
    """shape: of the images. classes: 0 if unconditional. options: of the architecture."""

    shape: Shape
    classes: int
    options: dict[str, Any]


def described(generator: State, discriminator: State | None) -> Described:
    """Returns the options that follow from the shapes of the weights.

    Not in the weights: `conv_clamp`, which is 256 unless trained with --fp32.

    Args:
        generator: of a generator.
        discriminator: the discriminator beside it, if there is one.

    Raises:
        ValueError: the names or widths are not those of these networks.
    """
    try:
        found = (BLOCK.fullmatch(name) for name in generator)
        sides = sorted(int(match[1]) for match in found if match)
        widths = {side: len(generator[f"synthesis.b{side}.conv1.weight"]) for side in sides}
        side, classes = sides[-1], 0
        channels = len(generator[f"synthesis.b{side}.torgb.weight"])
        shape = Shape(channels, *generator[f"synthesis.b{side}.conv1.noise_const"].shape)
        w_dim, inputs = generator["mapping.fc0.weight"].shape
        if "mapping.embed.weight" in generator:
            classes = generator["mapping.embed.weight"].shape[1]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"not a generator of StyleGAN2 ({error})") from None
    if shape.square != side:
        raise ValueError(f"a StyleGAN2 of other blocks than the published ones ({sides})")
    longer = max(shape.height, shape.width)
    options: dict[str, Any] = {
        "channel_base": max(width * (longer * name // side) for name, width in widths.items()),
        "channel_max": widths[sides[0]],
        "z_dim": inputs - (w_dim if classes else 0),
        "w_dim": w_dim,
        "mapping_layers": sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", n)) for n in generator),
    }
    if widths_of(shape, options["channel_base"], options["channel_max"]) != widths:
        raise ValueError(f"a StyleGAN2 of other widths than the published ones ({widths})")
    if discriminator is not None:
        options["residual"] = any(".skip." in name for name in discriminator)
    return Described(shape, classes, options)


def without_other_filters(state: State, own: State, where: str) -> dict[str, Tensor]:
    """Returns the state without the filters that the network `own` does not have.

    Every published layer has one, used or not.

    Raises:
        VkdError: a filter other than the published one.
    """
    for name, value in state.items():
        if name.endswith(FILTER) and not _is_binomial(value):
            raise VkdError(f"{where}: {name} is not [1, 3, 3, 1]")
    return {k: v for k, v in state.items() if k in own or not k.endswith(FILTER)}


def _is_binomial(value: Any) -> bool:
    known = binomial_filter()
    same = isinstance(value, Tensor) and value.shape == known.shape
    return same and torch.allclose(value.float(), known)
