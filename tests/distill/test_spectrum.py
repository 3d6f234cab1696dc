"""The effective rank, and the choice of the principal directions that are kept."""

import math

import numpy as np
import pytest
import torch

from gan_vkd.distill.normalization import Whitening, effective_rank, view_agreement
from tests.distill.normalizations import make_normalization
from tests.distill.samples import correlated, two_views
from tests.real_data import lite_features, needs_shared

EXACT = {"eps": 0.0, "shrinkage": 0.0}


# effective rank


def test_effective_rank_of_equal_single_and_uneven_eigenvalues() -> None:
    values = torch.tensor([[3.0, 3.0, 3.0, 3.0], [5.0, 0.0, 0.0, 0.0], [2.0, 1.0, 1.0, 0.0]])
    # shares 1/2, 1/4, 1/4: an entropy of 3/2 bits
    expected = torch.tensor([4.0, 1.0, 2**1.5])
    torch.testing.assert_close(effective_rank(values), expected)


def test_effective_rank_is_of_the_running_covariance_of_each_group() -> None:
    z = correlated(200, 12)
    module = Whitening(12, groups=2, shrinkage="ledoit_wolf")
    module.fit(z.split(50))
    for part, found in enumerate(module.effective_rank.tolist()):
        cov = np.cov(z[:, 6 * part : 6 * part + 6].numpy(), rowvar=False)
        shares = np.linalg.eigvalsh(cov) / np.trace(cov)
        assert found == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))


@needs_shared
def test_the_effective_rank_of_real_features_is_plausible() -> None:
    features = lite_features()
    module = Whitening(1280)
    module.fit([features])
    rank = float(module.effective_rank)
    assert 30 < rank < len(features) - 1, "neither one direction nor all that the images span"
    values = torch.linalg.svdvals((features - features.mean(0)).double()).square()
    assert rank == pytest.approx(float(effective_rank(values)), rel=1e-6)


# truncation


@pytest.mark.parametrize("directions", [1, 3, 12])
def test_a_number_of_directions_keeps_the_leading_ones(directions: int) -> None:
    from sklearn.decomposition import PCA

    z = correlated(300, 12)
    module = make_normalization("whitening", 12, directions=directions, **EXACT)
    module.fit([z])
    pca = PCA(directions, whiten=True).fit(z.numpy())
    expected = pca.transform(z.numpy()) @ pca.components_ * math.sqrt(300 / 299)
    np.testing.assert_allclose(module(z).numpy(), expected, atol=1e-5)


def test_truncated_pca_keeps_the_leading_coordinates_and_zeroes_the_rest() -> None:
    z = correlated(300, 12)
    whole, cut = (make_normalization("whitening_pca", 12, directions=k) for k in (None, 4))
    for module in (whole, cut):
        module.fit([z])
    assert torch.equal(cut(z)[:, :4], whole(z)[:, :4])
    assert not cut(z)[:, 4:].any()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.999])
def test_a_share_keeps_the_fewest_directions_that_explain_it(share: float) -> None:
    z = correlated(300, 12)
    module = Whitening(12, directions=share, **EXACT)
    module(z)  # also with running statistics
    kept = round(float(module(z).double().var(0, correction=0).sum()))
    values = np.linalg.eigvalsh(np.cov(z.numpy(), rowvar=False))[::-1]
    shares = np.cumsum(values) / values.sum()
    assert kept == int((shares < share).sum()) + 1


def test_every_group_keeps_its_own_directions() -> None:
    z = correlated(300, 12)
    module = Whitening(12, groups=3, directions=2, **EXACT)
    module.fit([z])
    for part in range(3):
        columns = slice(4 * part, 4 * part + 4)
        alone = Whitening(4, directions=2, **EXACT)
        alone.fit([z[:, columns]])
        torch.testing.assert_close(module(z)[:, columns], alone(z[:, columns]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": 0}, "must be 1 or more"),
        ({"directions": 4}, "must be 1 to 3"),
        ({"directions": 1.0}, r"in \(0, 1\)"),
        ({"directions": 2, "kind": "cholesky"}, "must be null for cholesky"),
    ],
)
def test_invalid_directions_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Whitening(6, groups=2, **options)


# agreement of two views


def test_agreement_is_the_correlation_of_each_coordinate() -> None:
    first, second = two_views(50, torch.linspace(0, 3, 6, dtype=torch.float64))
    found = view_agreement(first[None], second[None])[0]
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(first.T, second.T, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-10)
    still = torch.zeros(1, 50, 6, dtype=torch.float64)
    assert not view_agreement(still, second[None]).any()


def test_directions_with_agreeing_views_are_kept() -> None:
    """Noise of variance 1 / c - 1 added to a common part of variance 1: a correlation of c."""
    correlations = torch.tensor([0.95, 0.9, 0.8, 0.7, 0.3, 0.2, 0.1, 0.05], dtype=torch.float64)
    first, second = two_views(20_000, (1 / correlations - 1).sqrt())
    for threshold, kept in {0.01: 8, 0.5: 4, 0.75: 3, 0.93: 1}.items():
        module = Whitening(8, directions="agreement", agreement=threshold, **EXACT)
        module.fit_views(first, second)
        fixed = Whitening(8, directions=kept, **EXACT)
        fixed.fit([first, second])
        torch.testing.assert_close(module.transform, fixed.transform)
    again = Whitening(8, directions="agreement", agreement=threshold, **EXACT)
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(first), module(first))


def test_views_without_agreement_and_missing_views_are_refused() -> None:
    first, second = two_views(200, torch.full((4,), 1e3, dtype=torch.float64))
    module = Whitening(4, directions="agreement")
    with pytest.raises(ValueError, match="no direction has a correlation"):
        module.fit_views(first, second)
    with pytest.raises(ValueError, match="needs two views"):
        Whitening(4, directions="agreement").fit([first])
