"""Grids of pictures with captions."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gan_vkd.report.pictures import grid

SIZE, MARGIN = 13, 4  # of the text, and around it, in pixels


def enlarged(images: Tensor, least: int) -> Tensor:
    """Repeats the pixels of (..., H, W) by a whole factor, so that no side is below `least`."""
    factor = -(-least // min(images.shape[-2:]))
    return images.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def captioned(images: Tensor, top: Sequence[str], left: Sequence[str] = ()) -> Tensor:
    """A grid with a caption above each column and, where `left` is given, beside each row.

    Args:
        images: uint8 (rows * columns, C, H, W), row by row; small ones are enlarged.
        top, left: captions of the columns and of the rows.

    Returns:
        One uint8 picture: RGB (3, H', W'), also of grey images, or RGBA (4, H', W').
    """
    images = enlarged(images, 64)
    height, width = images.shape[2:]
    rows, font = grid(images, len(top)), ImageFont.load_default(SIZE)
    rows = rows if len(rows) == 4 else rows.expand(3, -1, -1)
    indent = round(max((font.getlength(text) for text in left), default=-2 * MARGIN)) + 2 * MARGIN
    above = SIZE + 2 * MARGIN
    page = rows.new_full((len(rows), rows.shape[1] + above, rows.shape[2] + indent), 255)
    page[:, above:, indent:] = rows
    picture = Image.fromarray(page.permute(1, 2, 0).contiguous().cpu().numpy())
    draw = ImageDraw.Draw(picture)
    for index, text in enumerate(top):
        x = indent + 1 + index * (width + 1) + width / 2
        draw.text((x, above / 2), text, "black", font, anchor="mm")
    for index, text in enumerate(left):
        y = above + 1 + index * (height + 1) + height / 2
        draw.text((MARGIN, y), text, "black", font, anchor="lm")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
