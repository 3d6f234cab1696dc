"""Leaked augmentation: samples with a grey square (cutout) or a grey border (translation).

Both augmentations fill in mid-grey, 0 in [-1, 1]. A generator that imitates them makes areas that
are nearly of this colour, with borders parallel to the image's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = 127.5
TOLERANCE = 16  # levels of 255 from grey, in every channel
SHARE = 0.9  # of the pixels of a square or border that are grey
BLOCK = 500  # images at a time


def leaked(images: Tensor) -> Tensor:
    """Finds leaks in uint8 images (N, C, H, W): (N, 2) bool, grey squares and grey borders.

    A square has a quarter of each side, which is what remains of DiffAugment's cutout in a corner.
    A border is the first or last row or column. Grey areas of real images are found too: compare
    with the share among real images (measured in docs/augmentation.md).
    """
    found = []
    for block in images.split(BLOCK):
        grey = ((block.float() - GREY).abs() <= TOLERANCE).all(1).float()
        edges = [grey[:, edge].mean(1) for edge in (0, -1)]
        edges += [grey[:, :, edge].mean(1) for edge in (0, -1)]
        most = torch.stack([_fullest_square(grey), torch.stack(edges).amax(0)], 1)
        found.append(most >= SHARE)
    return torch.cat(found).cpu()


def _fullest_square(grey: Tensor) -> Tensor:
    """The largest mean (N,) of (N, H, W) in any window of a quarter of each side."""
    height, width = (max(size // 4, 1) for size in grey.shape[1:])
    sums = F.pad(grey.cumsum(1).cumsum(2), (1, 0, 1, 0))
    rows = sums[:, height:] - sums[:, :-height]
    return (rows[:, :, width:] - rows[:, :, :-width]).amax((1, 2)) / (height * width)
