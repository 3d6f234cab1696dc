"""Filters of orthogonal wavelets, as matrices that act on one axis of an image.

The image goes on as its mirror image beyond its first and last pixel. Matrices are built once for
each size, so that later calls copy nothing from the host.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

# Low-pass filters (Daubechies, Ten Lectures on Wavelets, 1992): a norm of 1, a sum of sqrt 2
SYM2 = np.array([
    -0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025,
])  # fmt: skip
SYM6 = np.array([
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
])  # fmt: skip

CENTRE = 5  # tap of sym6 that stands on the pixel, nearest to the filter's mean delay of 5.1 taps


@cache
def upsampling(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrix (4 size - 3, size) of 2x upsampling by sym6: pixel i stands on sample 2i.

    The samples are those of the image, of its mirror image, and the first one again: a signal that
    goes on as its mirror image at both ends has a period of 4 (size - 1) samples.
    """
    matrix, sample = np.zeros((4 * size - 3, size)), np.arange(4 * size - 3)[:, None]
    twice = sample + CENTRE - np.arange(len(SYM6))  # the pixel's index times two, where it is even
    taps = np.where(twice % 2 == 0, np.sqrt(2) * SYM6, 0)
    np.add.at(matrix, (sample, mirrored(twice // 2, size)), taps)
    return torch.from_numpy(matrix).to(dtype).to(device)


@cache
def downsampling(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrix (size, 2 size + 10) of 2x downsampling by sym6, the inverse of `upsampling`.

    Its first sample is CENTRE samples before the first pixel.
    """
    matrix, pixel = np.zeros((size, 2 * size + len(SYM6) - 2)), np.arange(size)[:, None]
    matrix[pixel, 2 * pixel + np.arange(len(SYM6))] = SYM6 / np.sqrt(2)
    return torch.from_numpy(matrix).to(dtype).to(device)


@cache
def bands(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Matrices (4, size, size) of the band-pass filters of `band_filters`."""
    filters = band_filters()
    matrices, pixel = np.zeros((len(filters), size, size)), np.arange(size)[:, None]
    offset = np.arange(filters.shape[1]) - filters.shape[1] // 2
    for matrix, taps in zip(matrices, filters, strict=True):
        np.add.at(matrix, (pixel, mirrored(pixel + offset, size)), taps)
    return torch.from_numpy(matrices).to(dtype).to(device)


def band_filters() -> np.ndarray:
    """Symmetric filters (4, 43) of the bands [0, pi/8], [pi/8, pi/4], [pi/4, pi/2], [pi/2, pi].

    Power responses of sym2's cascaded low-pass and high-pass filters; their sum is the identity.
    """
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    high = low * (-1) ** np.abs(np.arange(len(low)) - len(low) // 2)
    filters = np.ones((1, 1))
    for _ in range(3):  # the bands so far get half as wide; the upper half of the spectrum is new
        spread = np.zeros((len(filters), 2 * filters.shape[1] - 1))
        spread[:, ::2] = filters
        filters = np.stack([np.convolve(taps, low) for taps in spread])
        beside = (filters.shape[1] - len(high)) // 2
        filters = np.concatenate([filters, np.pad(high, beside)[None]])
    return filters


def mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """Indices of the pixels that stand beyond the image of `size` pixels: ... 2 1 0 1 2 ..."""
    last = size - 1
    return last - np.abs(index % (2 * last) - last)
