import numpy as np
import pytest
from scipy.stats import special_ortho_group
from sklearn.neighbors import NearestNeighbors

from gan_vkd.evaluation import measures
from gan_vkd.evaluation.measures import (
    density_coverage,
    inception_score,
    memorisation_rate,
    nearest,
    precision_recall,
)


def two_sets(seed: int = 0, count: int = 60, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, d)) + 5, random.normal(size=(count + 10, d)) * 1.2 + 5.5


def radius(points: np.ndarray, i: int, k: int) -> float:
    return sorted(float(np.linalg.norm(points[i] - p)) for p in points)[k]


def covered(point: np.ndarray, centres: np.ndarray, k: int) -> int:
    return sum(np.linalg.norm(point - c) <= radius(centres, i, k) for i, c in enumerate(centres))


@pytest.mark.parametrize("block", [700, 10_000_000])
@pytest.mark.parametrize("seed", [0, 1])
def test_precision_and_recall_match_their_formulas(
    seed: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "BLOCK", block)
    real, fake = two_sets(seed)
    found = precision_recall(real, fake, k=3)
    assert found["precision"] == pytest.approx(np.mean([covered(y, real, 3) > 0 for y in fake]))
    assert found["recall"] == pytest.approx(np.mean([covered(x, fake, 3) > 0 for x in real]))
    assert 0 < found["recall"] < 1


@pytest.mark.parametrize("block", [700, 10_000_000])
def test_density_and_coverage_match_their_formulas(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "BLOCK", block)
    real, fake = two_sets()
    found = density_coverage(real, fake, k=5)
    assert found["density"] == pytest.approx(np.mean([covered(y, real, 5) / 5 for y in fake]))
    near = [
        min(np.linalg.norm(x - y) for y in fake) <= radius(real, i, 5) for i, x in enumerate(real)
    ]
    assert found["coverage"] == pytest.approx(np.mean(near))
    assert 0 < found["coverage"] < 1


def test_measures_of_equal_and_of_distant_sets() -> None:
    real, _ = two_sets()
    same = precision_recall(real, real.copy()) | density_coverage(real, real.copy())
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    # each ball holds its centre and four of its five neighbours; the fifth is on its border
    assert same["density"] == pytest.approx(1)
    far = precision_recall(real, real + 100) | density_coverage(real, real + 100)
    assert set(far.values()) == {0.0}


def test_a_collapsed_set_has_high_precision_and_low_recall() -> None:
    real, _ = two_sets(count=200)
    collapsed = real[:1] + np.random.default_rng(1).normal(size=(200, 4)) * 1e-3
    found = precision_recall(real, collapsed) | density_coverage(real, collapsed)
    assert found["precision"] == 1
    assert found["recall"] < 0.02
    assert found["coverage"] < 0.2


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_measures_are_invariant_to_rotation_and_shift(shift: float) -> None:
    real, fake = two_sets()
    turn = special_ortho_group.rvs(4, random_state=0)
    moved = [x @ turn + shift for x in (real, fake)]
    for measure in (precision_recall, density_coverage):
        assert measure(*moved) == pytest.approx(measure(real, fake))
    assert memorisation_rate(moved[1], moved[0]) == memorisation_rate(fake, real)


def test_neighbours_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "BLOCK", 600)
    training, samples = two_sets()
    indices, distances = nearest(samples, training, 3)
    expected = NearestNeighbors(n_neighbors=3).fit(training).kneighbors(samples)
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_allclose(distances, expected[0], rtol=1e-9)


def test_the_memorisation_rate_of_copies_and_of_unseen_images() -> None:
    random = np.random.default_rng(0)
    training, unseen = random.normal(size=(2, 2000, 16))
    near = training[:300] + 1e-3 * random.normal(size=(300, 16))
    assert memorisation_rate(near, training) == 1
    assert memorisation_rate(training, training) == 1
    assert memorisation_rate(np.concatenate([near, near + 50]), training) == 0.5
    rate = memorisation_rate(unseen, training)
    by_hand = []
    for x in unseen[:200]:
        distances = np.linalg.norm(training - x, axis=1)
        i = distances.argmin()
        others = np.delete(np.linalg.norm(training - training[i], axis=1), i)
        by_hand.append(distances[i] <= others.min())
    assert memorisation_rate(unseen[:200], training) == np.mean(by_hand)
    assert 0.3 < rate < 0.7


def test_copies_of_duplicated_training_images_are_memorised() -> None:
    training = np.repeat(np.random.default_rng(0).normal(size=(50, 8)) + 1e3, 2, axis=0)
    assert memorisation_rate(training[:10], training) == 1


def test_the_inception_score_matches_known_cases_and_its_formula() -> None:
    assert inception_score(np.full((100, 7), 1 / 7)) == pytest.approx((1, 0))
    balanced = np.tile(np.eye(5), (20, 1))
    assert inception_score(balanced) == pytest.approx((5, 0))
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(4), size=30)
    scores = []
    for part in (p[:10], p[10:20], p[20:]):
        marginal = part.mean(0)
        divergence = np.mean(
            [sum(q * np.log(q / m) for q, m in zip(row, marginal, strict=True)) for row in part]
        )
        scores.append(np.exp(divergence))
    assert inception_score(p, splits=3) == pytest.approx((np.mean(scores), np.std(scores)))


def test_sets_that_are_too_small_are_refused() -> None:
    real, fake = two_sets()
    with pytest.raises(ValueError, match="3 samples have no 3-th nearest neighbour"):
        precision_recall(real[:3], fake)
    with pytest.raises(ValueError, match="5 samples have no 5-th"):
        density_coverage(real[:5], fake)
    with pytest.raises(ValueError, match="1 samples have no 1-th"):
        memorisation_rate(fake, real[:1])
    with pytest.raises(ValueError, match="cannot be split into 10"):
        inception_score(np.full((9, 2), 0.5))
    with pytest.raises(ValueError, match="60 images: no 61 neighbours"):
        nearest(fake, real, 61)


def test_invalid_features_and_probabilities_are_refused() -> None:
    real, fake = two_sets()
    fake[3, 1] = np.nan
    for measure in (precision_recall, density_coverage):
        with pytest.raises(ValueError, match="missing or not finite"):
            measure(real, fake)
        with pytest.raises(ValueError, match="missing or not finite"):
            measure(real, fake[:0])
    with pytest.raises(ValueError, match="takes probabilities"):
        inception_score(np.random.default_rng(0).normal(size=(20, 3)))
