"""ADA's colour operations, filters and corruptions: parameters against appendix B of the paper."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from gan_vkd.data.augment.ada.color import (
    brightness,
    colors,
    contrast,
    hue,
    luma_flip,
    recolored,
    saturation,
)
from gan_vkd.data.augment.ada.corruption import cut, noisy
from gan_vkd.data.augment.ada.filtering import amplified, gains
from gan_vkd.data.augment.ada.wavelets import SYM2, SYM6, band_filters
from tests.test_ada_geometry import COUNT, EVERY_ANGLE, draws, fits, frequencies, noise

GREY = np.ones(3) / math.sqrt(3)
PIXELS = np.random.default_rng(0).uniform(-1, 1, (5, 3))


def split(colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the channels, and what each has beyond it: (..., 3)."""
    luma = colour.mean(-1, keepdims=True)
    return luma[..., 0], colour - luma


def mapped(matrices: Tensor) -> np.ndarray:
    """PIXELS under each matrix: (COUNT, 5, 3)."""
    linear = matrices.numpy()
    assert (linear[:, 3] == [0, 0, 0, 1]).all()
    return np.einsum("bij,nj->bni", linear[:, :3, :3], PIXELS) + linear[:, None, :3, 3]


def test_brightness_adds_a_normal_number_of_deviation_a_fifth() -> None:
    added = mapped(brightness(draws(1.0))) - PIXELS
    assert np.allclose(added, added[:, :1, :1])
    fits(added[:, 0, 0], stats.norm(0, 0.2))


def test_contrast_is_lognormal_with_half_an_octave() -> None:
    factor = mapped(contrast(draws(1.0))) / PIXELS
    assert np.allclose(factor, factor[:, :1, :1])
    fits(np.log2(factor[:, 0, 0]), stats.norm(0, 0.5))


def test_luma_is_inverted_in_half_of_the_images() -> None:
    luma, chroma = split(mapped(luma_flip(draws(1.0))))
    before, same = split(PIXELS)
    assert np.allclose(chroma, same)
    frequencies((luma / before)[:, 0].round(9), {1: 0.5, -1: 0.5})
    assert np.allclose(abs(luma), abs(before))


def test_hue_is_rotated_by_any_angle_with_luma_and_chroma_kept() -> None:
    rotated = mapped(hue(draws(1.0)))
    luma, chroma = split(rotated)
    before, same = split(PIXELS)
    assert np.allclose(luma, before)
    assert np.allclose(np.linalg.norm(chroma, axis=-1), np.linalg.norm(same, axis=-1))
    sine = np.cross(same, chroma) @ GREY / (same**2).sum(-1)
    cosine = (chroma * same).sum(-1) / (same**2).sum(-1)
    angle = np.arctan2(sine, cosine)
    assert np.allclose(angle, angle[:, :1])
    fits(angle[:, 0], EVERY_ANGLE)


def test_a_third_of_a_turn_of_hue_permutes_the_channels() -> None:
    third = draws(1.0, 1)
    third.uniform = lambda *_: torch.tensor([5 / 6], dtype=torch.float64)  # type: ignore[method-assign]
    third.applied = lambda *_: torch.tensor([True])  # type: ignore[method-assign]
    turned = hue(third)[0, :3, :3]
    torch.testing.assert_close(turned, torch.eye(3, dtype=torch.float64).roll(1, 0))


def test_saturation_is_lognormal_with_one_octave() -> None:
    luma, chroma = split(mapped(saturation(draws(1.0))))
    before, same = split(PIXELS)
    assert np.allclose(luma, before)
    factor = chroma / same
    assert np.allclose(factor, factor[:, :1, :1])
    fits(np.log2(factor[:, 0, 0]), stats.norm(0, 1))


@pytest.mark.parametrize("p", [0.0, 0.3, 0.8])
def test_every_operation_is_applied_with_probability_p(p: float) -> None:
    close = lambda share: pytest.approx(share, abs=4 * math.sqrt(0.25 / COUNT))  # noqa: E731
    shares = {brightness: p, contrast: p, luma_flip: p / 2, hue: p, saturation: p}
    for operation, share in shares.items():
        changed = (operation(draws(p)) - torch.eye(4)).abs().amax((1, 2)) > 1e-9
        assert changed.double().mean().item() == close(share)
    assert (gains(draws(p)) != 1).any(1).double().mean().item() == close(1 - (1 - p) ** 4)
    images = torch.ones(COUNT, 1, 4, 4, dtype=torch.float64)
    for corrupt in (noisy, cut):
        changed = (corrupt(images, draws(p)) != images).any(3).any(2).any(1)
        assert changed.double().mean().item() == close(p)


def test_colours_are_composed_in_the_order_of_the_paper() -> None:
    found, again = colors(draws(0.7, 20)), draws(0.7, 20)
    expected = torch.eye(4, dtype=torch.float64)
    parts = [operation(again) for operation in (saturation, hue, luma_flip, contrast, brightness)]
    for part in reversed(parts):  # brightness acts first; the draws are made from the last on
        expected = part @ expected
    torch.testing.assert_close(found, expected)


def test_grey_images_get_what_grey_gets_in_colour_and_alpha_stays() -> None:
    images, matrices = noise()[:, :1], colors(draws(1.0, 2))
    in_color = recolored(images.repeat(1, 3, 1, 1), matrices)
    torch.testing.assert_close(recolored(images, matrices).expand(-1, 3, -1, -1), in_color)
    transparent = recolored(noise()[:, [0, 1, 2, 0]], matrices)
    torch.testing.assert_close(transparent[:, :3], recolored(noise(), matrices))
    assert torch.equal(transparent[:, 3], noise()[:, 0])


# filters


@pytest.mark.parametrize(("taps", "moments"), [(SYM2, 2), (SYM6, 6)])
def test_wavelets_are_orthonormal_with_all_vanishing_moments(
    taps: np.ndarray, moments: int
) -> None:
    assert len(taps) == 2 * moments
    assert taps.sum() == pytest.approx(math.sqrt(2), abs=1e-10)
    for shift in range(0, len(taps), 2):
        product = taps[shift:] @ taps[: len(taps) - shift]
        assert product == pytest.approx(float(shift == 0), abs=1e-10)
    high = taps * (-1.0) ** np.arange(len(taps))
    for moment in range(moments):
        assert high @ np.arange(len(taps)) ** moment == pytest.approx(0, abs=1e-4)


def test_bands_divide_the_spectrum() -> None:
    filters = band_filters()
    offset = np.arange(filters.shape[1]) - filters.shape[1] // 2
    assert np.allclose(filters.sum(0), offset == 0, atol=1e-11)
    frequency = np.linspace(0, math.pi, 257)
    response = filters @ np.cos(np.outer(offset, frequency))
    assert (response > -1e-9).all()
    edges = [0, math.pi / 8, math.pi / 4, math.pi / 2, math.pi]
    for band, (low, high) in enumerate(itertools.pairwise(edges)):
        middle = np.abs(frequency - (low + high) / 2).argmin()
        assert response[:, middle].argmax() == band
        for edge in (low, high)[band == 0 : 1 + (band < 3)]:
            assert response[band, np.abs(frequency - edge).argmin()] == pytest.approx(0.5, abs=0.1)


def test_gains_are_lognormal_with_one_octave_at_constant_expected_power() -> None:
    power = np.array([10, 1, 1, 1]) / 13
    found = gains(draws(0.01)).numpy()  # hardly ever more than one band
    changed = [(found != found[:, [other]]).any(1) for other in (1, 0)]
    single = found[changed[0] & (found[:, 1:] == found[:, [1]]).all(1)]
    assert len(single) > 100
    fits(np.log2(single[:, 0] / single[:, 1]), stats.norm(0, 1))
    rows = found[(found != 1).any(1)]
    ones = np.array([np.unique(row.round(12)).size == 2 for row in rows])
    assert np.allclose((power * rows[ones] ** 2).sum(1), 1)


def test_filtering_amplifies_bands_as_the_convolution_of_the_mirrored_image_does() -> None:
    images = noise(20, 32)
    factors = torch.tensor([[1.0, 2, 0.5, 3], [0, 1, 1, 1]], dtype=torch.float64)
    found, wide = amplified(images, factors), band_filters().shape[1] // 2
    for image, factor, result in zip(images, factors, found, strict=True):
        taps = factor.numpy() @ band_filters()
        for channel, got in zip(image.numpy(), result.numpy(), strict=True):
            padded = np.pad(channel, wide, mode="reflect")
            for axis in (0, 1):
                padded = np.apply_along_axis(np.convolve, axis, padded, taps, "valid")
            assert np.allclose(got, padded, atol=1e-9)


# corruptions


def test_noise_is_white_with_a_half_normal_size() -> None:
    images = torch.zeros(4000, 1, 16, 16, dtype=torch.float64)
    added = noisy(images, draws(1.0, 4000)).flatten(1).numpy()
    size = added.std(1)
    assert size.mean() == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.05)
    assert (size**2).mean() == pytest.approx(0.01, rel=0.1)
    fits((added / size[:, None])[:20].ravel(), stats.norm)


def test_cutout_covers_half_of_each_side_around_a_uniform_centre() -> None:
    height, width = 8, 12
    images = torch.ones(COUNT, 2, height, width, dtype=torch.float64)
    gone = (cut(images, draws(1.0)) == 0).numpy()
    assert (gone[:, 0] == gone[:, 1]).all()
    assert (gone[:, 0] == gone[:, 0].any(1)[:, None] & gone[:, 0].any(2)[:, :, None]).all()
    for axis, size in ((2, height), (1, width)):
        line = gone[:, 0].any(axis)
        first, length = line.argmax(1), line.sum(1)
        inside = (first > 0) & (first + length < size)
        assert (length[inside] == size // 2).all()
        assert length.mean() / size == pytest.approx(7 / 16, abs=0.01)  # 1/2 less what is beyond
