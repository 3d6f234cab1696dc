"""Style mixing: pictures with the styles of two seeds (Karras et al., CVPR 2019, figure 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gan_vkd.networks import stylegan2
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.tools.captions import captioned
from gan_vkd.tools.inputs import inputs_of, pictures
from gan_vkd.tools.seeds import parse_seeds
from gan_vkd.tools.styles import styles_of

# styles by the paper's names: those of the blocks at 4 and 8, at 16 and 32, and at more pixels
RANGES = {"coarse": (0, 4), "middle": (4, 8), "fine": (8, None)}


def parse_layers(text: str, styles: int) -> list[int]:
    """Reads coarse, middle, fine, or numbers such as 4-7, for a network with that many styles.

    Raises:
        SettingsError: another form, or layers that the network does not have.
    """
    if text in RANGES:
        layers = list(range(styles))[slice(*RANGES[text])]
    else:
        layers = parse_seeds(text, "--layers")
    if not layers or max(layers) >= styles:  # fine layers are of 64 pixels and more
        raise SettingsError(f"--layers {text}: the network has the layers 0 to {styles - 1}")
    return layers


def mixed_styles(rows: Tensor, columns: Tensor, layers: list[int]) -> Tensor:
    """(R, L, d) and (C, L, d) -> (R, C, L, d): those of the rows, but for the columns' layers."""
    mixed = rows[:, None].repeat(1, len(columns), 1, 1)
    mixed[:, :, layers] = columns[:, layers]
    return mixed


def mixing_grid(
    generator: stylegan2.Generator,
    shares: Sequence[float],
    rows: list[int],
    columns: list[int],
    layers: list[int],
) -> Tensor:
    """A captioned grid: rows' pictures, with the columns' styles in the layers.

    Args:
        generator: truncated or not.
        shares: frequencies of the classes.
        rows, columns: seeds; their own pictures are in the first column and in the first row.
        layers: numbers of the layers that take the style of the column.
    """
    left = styles_of(generator, *inputs_of(generator, shares, rows))
    top = styles_of(generator, *inputs_of(generator, shares, columns))
    mixed = mixed_styles(left, top, layers)
    made = pictures(generator.synthesis, torch.cat([left, top, mixed.flatten(0, 1)]))
    of_rows, of_columns, of_both = made.split([len(rows), len(columns), len(rows) * len(columns)])
    empty = torch.full_like(of_rows[:1], 255)
    inside = of_both.unflatten(0, (len(rows), len(columns)))
    body = torch.cat([of_rows[:, None], inside], 1).flatten(0, 1)
    return captioned(
        torch.cat([empty, of_columns, body]),
        ["", *(f"seed {seed}" for seed in columns)],
        ["", *(f"seed {seed}" for seed in rows)],
    )
