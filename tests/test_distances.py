"""Frechet and kernel distances against closed forms and clean-fid's own code."""

import numpy as np
import pytest
import torch
from cleanfid import fid as cleanfid

from gan_vkd.evaluation.distances import Gaussian, frechet_distance, kernel_distance
from gan_vkd.evaluation.evaluator import isolated_randomness
from gan_vkd.evaluation.judge import resized
from gan_vkd.evaluation.measures import (
    Neighbourhoods,
    density_coverage,
    memorisation_rate,
    nearest,
    precision_recall,
)


def basis(rows: int, columns: int, random: np.random.Generator) -> np.ndarray:
    """Orthonormal columns (rows, columns)."""
    return np.linalg.qr(random.normal(size=(rows, columns)))[0]


def samples_of(
    mean: np.ndarray, deviations: np.ndarray, directions: np.ndarray, count: int, seed: int
) -> np.ndarray:
    """Samples (count, d) whose mean and covariance are exactly the given ones.

    The covariance has the standard deviations (r,) along orthonormal directions (d, r), r < count.
    """
    normal = np.random.default_rng(seed).normal(size=(count, len(deviations)))
    white = np.linalg.qr(normal - normal.mean(0))[0] * np.sqrt(count - 1)
    return mean + white * deviations @ directions.T


@pytest.mark.parametrize(("count", "width", "rank"), [(900, 40, 40), (50, 300, 40), (41, 40, 40)])
def test_distances_of_known_means_and_covariances(count: int, width: int, rank: int) -> None:
    """Covariances with common eigenvectors: |m1 - m2|^2 + sum (s1 - s2)^2, also where singular."""
    random = np.random.default_rng(0)
    directions, first, second = basis(width, rank, random), *random.uniform(0, 3, size=(2, rank))
    means = random.normal(size=(2, width))
    a = samples_of(means[0], first, directions, count, 1)
    b = samples_of(means[1], second, directions, count + 7, 2)
    shift = np.square(means[0] - means[1]).sum()
    expected = shift + np.square(first - second).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * width, rel=1e-10)


def test_the_distance_of_covariances_in_orthogonal_subspaces_is_the_sum_of_traces() -> None:
    random = np.random.default_rng(0)
    directions, first, second = basis(200, 60, random), *random.uniform(1, 3, size=(2, 30))
    a = samples_of(np.zeros(200), first, directions[:, :30], 40, 1)
    b = samples_of(np.zeros(200), second, directions[:, 30:], 500, 2)
    expected = np.square(first).sum() + np.square(second).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("width", [5, 64])
def test_the_frechet_distance_is_that_of_clean_fid(width: int, kind: type[np.floating]) -> None:
    random = np.random.default_rng(0)
    mixing = random.normal(size=(width, width)) / np.sqrt(width)
    a = random.normal(size=(700, width)).astype(kind)
    b = (random.normal(size=(900, width)) @ mixing + 0.3).astype(kind)
    expected = cleanfid.fid_from_feats(a.astype(np.float64), b.astype(np.float64))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a, b) == pytest.approx(cleanfid.fid_from_feats(a, b), rel=1e-6)


def test_the_order_of_samples_and_features_does_not_matter() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 30, 80))
    b = b * 2 + 1
    turn = basis(80, 80, random)
    expected = frechet_distance(a, b)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(a[::-1] @ turn, b @ turn) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("count", [30, 300])
def test_a_fitted_gaussian_stands_for_its_samples(count: int) -> None:
    a, b = np.random.default_rng(0).normal(size=(2, count, 80))
    known = Gaussian.of(b)
    covariance = (known.root.T @ known.root).numpy()
    np.testing.assert_allclose(covariance, np.cov(b, rowvar=False), atol=1e-12)
    assert known.root.shape == (min(count, 80), 80)
    assert frechet_distance(a, known) == frechet_distance(a, b)


@pytest.mark.parametrize("count", [60, 1300])
def test_the_kernel_distance_is_that_of_clean_fid(count: int) -> None:
    """On the same subsets of float64 features; of float32 ones clean-fid's sums are coarser."""
    random = np.random.default_rng(0)
    real = np.abs(random.normal(size=(1100, 16)))
    fake = np.abs(random.normal(size=(count, 16)) * 1.3 + 0.2)
    before = np.random.get_state()[1]
    found = kernel_distance(fake, real, seed=3)
    assert (np.random.get_state()[1] == before).all()
    with isolated_randomness(3):
        assert found == pytest.approx(cleanfid.kernel_distance(real, fake), rel=1e-9)
    single = kernel_distance(fake.astype(np.float32), real.astype(np.float32), seed=3)
    assert single == pytest.approx(found, rel=1e-6)
    assert kernel_distance(fake, real, seed=4) != found


@pytest.mark.cuda
@pytest.mark.parametrize("count", [60, 300])
def test_a_gpu_finds_what_a_cpu_finds(count: int) -> None:
    random = np.random.default_rng(0)
    real, fake = random.normal(size=(2, count, 80)).astype(np.float32)
    sets = [Neighbourhoods(real, device) for device in ("cpu", "cuda")]
    for measure in (precision_recall, density_coverage):
        assert measure(sets[1], fake) == measure(sets[0], fake)
    assert memorisation_rate(fake, sets[1]) == memorisation_rate(fake, sets[0])
    found, expected = (nearest(fake, known, 5) for known in sets[::-1])
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-9)
    on_gpu = frechet_distance(fake, Gaussian.of(real, "cuda"))
    assert on_gpu == pytest.approx(frechet_distance(fake, real), rel=1e-9)
    kernels = [kernel_distance(fake, real, 0, device) for device in ("cuda", "cpu")]
    assert kernels[0] == pytest.approx(kernels[1], rel=1e-4)
    images = torch.from_numpy(random.integers(256, size=(3, 3, 32, 32))).float()
    assert (resized(images.cuda()).cpu() - resized(images)).abs().max() < 1e-3
