"""ADA's geometric operations: parameters against appendix B of the paper, pixels against SciPy."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from gan_vkd.data.augment.ada.draws import Draws
from gan_vkd.data.augment.ada.geometry import (
    anisotropic_scaling,
    blitting,
    fractional_translation,
    general,
    horizontal_flip,
    integer_translation,
    isotropic_scaling,
    moved_by,
    quarter_turn,
    rotation,
    scaled_by,
    turned_by,
)
from gan_vkd.data.augment.ada.resampling import warp

COUNT, HEIGHT, WIDTH = 20_000, 32, 64
OCTAVES = stats.norm(0, 0.2)
EVERY_ANGLE = stats.uniform(-math.pi, 2 * math.pi)
HALF = torch.tensor(0.5)


def draws(p: float, count: int = COUNT) -> Draws:
    torch.manual_seed(0)
    return Draws(torch.tensor(p, dtype=torch.float64), torch.empty(count, dtype=torch.float64))


def drawn(operation: Callable[..., Tensor], p: float = 1.0) -> np.ndarray:
    """The inverses (COUNT, 3, 3) of an operation on images of HEIGHT x WIDTH."""
    sized = operation in (integer_translation, fractional_translation)
    return operation(draws(p), *[HEIGHT, WIDTH] * sized).numpy()


def fits(values: np.ndarray, distribution: object) -> None:
    """Kolmogorov-Smirnov test: under the distribution it fails with probability 1e-3."""
    assert stats.kstest(values, distribution.cdf).pvalue > 1e-3  # type: ignore[attr-defined]


def frequencies(values: np.ndarray, expected: dict[float, float]) -> None:
    """Asserts that there are only the expected values, each within four standard deviations."""
    assert set(np.unique(values)) == set(expected)
    for value, share in expected.items():
        deviation = math.sqrt(share * (1 - share) / len(values))
        assert (values == value).mean() == pytest.approx(share, abs=4 * deviation)


def angles(inverses: np.ndarray) -> np.ndarray:
    turned = np.arctan2(inverses[:, 1, 0], inverses[:, 0, 0])
    rotations = np.stack([np.cos(turned), -np.sin(turned), np.sin(turned), np.cos(turned)], 1)
    assert np.allclose(inverses[:, :2, :2].reshape(-1, 4), rotations, atol=1e-12)
    return turned


def test_half_of_the_images_are_mirrored() -> None:
    inverses = drawn(horizontal_flip)
    frequencies(inverses[:, 0, 0], {1: 0.5, -1: 0.5})
    assert (inverses[:, 1, 1] == 1).all()


def test_quarter_turns_are_equally_likely() -> None:
    quarters = (angles(drawn(quarter_turn)) / (math.pi / 2)).round(9) % 4
    frequencies(quarters, dict.fromkeys(range(4), 0.25))


@pytest.mark.parametrize(("row", "size"), [(0, WIDTH), (1, HEIGHT)])
def test_integer_translations_are_rounded_uniform_numbers(row: int, size: int) -> None:
    most = size // 8
    shares = dict.fromkeys(range(1 - most, most), 1 / (2 * most)) | dict.fromkeys(
        (-most, most), 1 / (4 * most)
    )
    frequencies(drawn(integer_translation)[:, row, 2], shares)


def test_scalings_are_lognormal_with_a_fifth_of_an_octave() -> None:
    same, opposite = drawn(isotropic_scaling), drawn(anisotropic_scaling)
    for inverses in (same, opposite):
        fits(-np.log2(inverses[:, 0, 0]), OCTAVES)
    assert np.array_equal(same[:, 0, 0], same[:, 1, 1])
    assert np.allclose(opposite[:, 0, 0] * opposite[:, 1, 1], 1)


def test_rotations_have_any_angle() -> None:
    fits(angles(drawn(rotation)), EVERY_ANGLE)


@pytest.mark.parametrize(("row", "size"), [(0, WIDTH), (1, HEIGHT)])
def test_fractional_translations_are_normal_with_an_eighth_of_a_side(row: int, size: int) -> None:
    fits(drawn(fractional_translation)[:, row, 2], stats.norm(0, size / 8))


@pytest.mark.parametrize("p", [0.0, 0.3, 0.8])
def test_every_operation_is_applied_with_probability_p(p: float) -> None:
    def changed(operation: Callable[..., Tensor]) -> float:
        return (drawn(operation, p) != np.eye(3)).any((1, 2)).mean()

    close = lambda share: pytest.approx(share, abs=4 * math.sqrt(0.25 / COUNT))  # noqa: E731
    assert changed(horizontal_flip) == close(p / 2)
    assert changed(quarter_turn) == close(3 * p / 4)
    for operation in (isotropic_scaling, anisotropic_scaling, fractional_translation):
        assert changed(operation) == close(p)
    assert changed(integer_translation) == close(p * (1 - 1 / 8 / 16))
    either = draws(p)
    turned = [(rotation(either).numpy() != np.eye(3)).any((1, 2)) for _ in range(2)]
    assert np.logical_or(*turned).mean() == close(p)


def test_operations_are_composed_in_the_order_of_the_paper() -> None:
    """The position that the composed inverse gives is that of the single inverses in a row."""
    steps = [horizontal_flip, quarter_turn, integer_translation, isotropic_scaling, rotation,
             anisotropic_scaling, rotation, fractional_translation]  # fmt: skip
    together = draws(0.5, 50)
    blit = quarter_turn(together), integer_translation(together, HEIGHT, WIDTH)
    expected = horizontal_flip(together) @ blit[0] @ blit[1]
    for operation in steps[3:7]:
        expected = expected @ operation(together)
    expected = expected @ fractional_translation(together, HEIGHT, WIDTH)
    again = draws(0.5, 50)
    found = blitting(again, HEIGHT, WIDTH, flip=True) @ general(again, HEIGHT, WIDTH)
    torch.testing.assert_close(found, expected)


def test_nothing_is_mirrored_without_flips() -> None:
    inverses = blitting(draws(1.0), HEIGHT, WIDTH, flip=False)
    assert (torch.linalg.det(inverses) > 0).all()
    inverses = blitting(draws(1.0), HEIGHT, WIDTH, flip=True)
    assert 0.45 < (torch.linalg.det(inverses) < 0).double().mean() < 0.55


# resampling


def noise(height: int = 20, width: int = 32) -> Tensor:
    torch.manual_seed(0)
    return torch.rand(2, 3, height, width, dtype=torch.float64) * 2 - 1


def smooth(height: int, width: int, blur: float = 2.0) -> Tensor:
    """Blurred noise of unit variance, mirrored at its borders as in SciPy's mode "mirror"."""
    images = ndimage.gaussian_filter(noise(height, width), (0, 0, blur, blur), mode="mirror")
    return torch.from_numpy(images / images.std())


def ones(value: float = 1.0) -> Tensor:
    return torch.full((2,), value, dtype=torch.float64)


def by_scipy(images: Tensor, matrix: np.ndarray) -> Tensor:
    """Spline interpolation at the positions that an inverse (3, 3) in (x, y, 1) gives."""
    centre = (np.array(images.shape[2:]) - 1) / 2
    swapped = matrix[[1, 0]][:, [1, 0]]
    offset = centre - swapped @ centre + matrix[[1, 0], 2]
    transformed = [
        ndimage.affine_transform(channel, swapped, offset, order=5, mode="mirror")
        for channel in images.flatten(0, 1).numpy()
    ]
    return torch.from_numpy(np.stack(transformed)).view_as(images)


def test_without_a_transform_images_stay() -> None:
    images, same = noise(), torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    torch.testing.assert_close(warp(images, same), images, rtol=0, atol=1e-10)
    single = warp(images.float(), same.float())
    torch.testing.assert_close(single, images.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("right", "down"), [(3, -2), (-31, 19), (70, -45)])
def test_a_translation_by_whole_pixels_is_exact(right: int, down: int) -> None:
    """Also where the image is its mirror image, and mirrored again."""

    def mirrored(index: int, size: int) -> int:
        while not 0 <= index < size:
            index = -index if index < 0 else 2 * (size - 1) - index
        return index

    images = noise()
    rows = [mirrored(row - down, 20) for row in range(20)]
    columns = [mirrored(column - right, 32) for column in range(32)]
    moved = warp(images, moved_by(ones(right), ones(down)))
    torch.testing.assert_close(moved, images[:, :, rows][:, :, :, columns], rtol=0, atol=1e-10)


def test_quarter_turns_and_flips_move_pixels() -> None:
    """Up to the phase of sym6, which no orthogonal wavelet can have linear."""
    images = smooth(24, 24)
    for turns in range(1, 4):
        turned = warp(images, turned_by(ones(turns * math.pi / 2)))
        assert (turned - images.rot90(turns, (2, 3))).square().mean().sqrt() < 0.06
    flipped = warp(images, scaled_by(ones(-1), 1))
    assert (flipped - images.flip(3)).square().mean().sqrt() < 0.06


@pytest.mark.parametrize(
    "inverse",
    [
        scaled_by(ones(0.8), ones(0.8)),
        scaled_by(ones(1.2), ones(1 / 1.2)),
        turned_by(ones(0.5)),
        moved_by(ones(2.5), ones(-0.75)),
        moved_by(ones(9.3), ones(7.1)) @ turned_by(ones(-2)) @ scaled_by(ones(1.1), ones(1.1)),
    ],
    ids=["zoom", "stretch", "turn", "shift", "all"],
)
def test_affine_transforms_agree_with_splines(inverse: Tensor) -> None:
    images = smooth(28, 40)
    found, expected = warp(images, inverse), by_scipy(images, inverse[0].numpy())
    assert (found - expected).square().mean().sqrt() < 0.06
    assert (found - images).square().mean().sqrt() > 0.3


def test_downscaling_does_not_alias() -> None:
    """A grating beyond the new Nyquist frequency vanishes, where bilinear sampling keeps it."""
    grating = torch.cos(0.9 * math.pi * torch.arange(64, dtype=torch.float64)).expand(2, 1, 64, 64)
    shrunk = warp(grating, scaled_by(ones(1.9), ones(1.9)))
    assert shrunk.square().mean() < 0.1 * grating.square().mean()
