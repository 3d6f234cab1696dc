"""Shrinkage towards the scaled identity, against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn import covariance
from torch import Tensor

from gan_vkd.distill.normalization import Whitening
from gan_vkd.distill.normalization.shrinkage import fourth_moment
from tests.distill.samples import correlated

REFERENCES = {"ledoit_wolf": covariance.LedoitWolf, "oas": covariance.OAS}


def shrunk(module: Whitening) -> Tensor:
    return module._shrunk(module.moments)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize(("samples", "d"), [(10, 32), (33, 32), (500, 12), (50, 1)])
def test_a_fitted_covariance_is_that_of_scikit_learn(name: str, samples: int, d: int) -> None:
    z = correlated(samples, d)
    module = Whitening(d, shrinkage=name)
    module.fit(z.split(7))
    expected = REFERENCES[name]().fit(z.numpy()).covariance_
    np.testing.assert_allclose(shrunk(module)[0].numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_covariance_without_structure_becomes_the_scaled_identity(name: str) -> None:
    """If the estimated weight exceeds one, as for some of these draws."""
    whole = 0
    for seed in range(10):
        z = torch.randn(200, 3, generator=torch.Generator().manual_seed(seed)).double()
        module = Whitening(3, shrinkage=name)
        module.fit([z])
        reference = REFERENCES[name]().fit(z.numpy())
        np.testing.assert_allclose(shrunk(module)[0], reference.covariance_, rtol=0, atol=1e-10)
        whole += reference.shrinkage_ == 1
    assert whole > 0


@pytest.mark.parametrize("name", REFERENCES)
def test_shrinkage_of_running_and_batch_statistics_uses_their_own_samples(name: str) -> None:
    z = correlated(40, 16)
    running, batch = Whitening(16, shrinkage=name), Whitening(16, shrinkage=name)
    for part in z.split((3, 20, 17)):
        running(part)
        alone = batch.update(part)
    expected = REFERENCES[name]().fit(z.numpy()).covariance_
    np.testing.assert_allclose(shrunk(running)[0].numpy(), expected, rtol=0, atol=1e-10)
    expected = REFERENCES[name]().fit(z[-17:].numpy()).covariance_
    np.testing.assert_allclose(batch._shrunk(alone)[0].numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", REFERENCES)
def test_groups_are_shrunk_separately(name: str) -> None:
    z = correlated(30, 12)
    module = Whitening(12, shrinkage=name, groups=3)
    module.fit(z.split(8))
    for part, cov in enumerate(shrunk(module)):
        expected = REFERENCES[name]().fit(z[:, 4 * part : 4 * part + 4].numpy()).covariance_
        np.testing.assert_allclose(cov.numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["zca", "pca", "cholesky"])
def test_the_transform_whitens_the_shrunk_covariance(kind: str) -> None:
    module = Whitening(16, kind=kind, shrinkage="ledoit_wolf", eps=0.0)
    module.fit([correlated(20, 16)])
    w = module.transform[0]
    unit = torch.eye(16, dtype=torch.float64)
    torch.testing.assert_close(w.T @ shrunk(module)[0] @ w, unit, rtol=0, atol=1e-9)


def test_the_fourth_moment_is_exact_far_from_the_origin() -> None:
    z = correlated(60, 8) + 10
    module = Whitening(8, shrinkage="ledoit_wolf")
    module.fit(z.split(11))
    found = fourth_moment(module.mean[None, :8], module.second)
    expected = (z - z.mean(0)).square().sum(1).square().mean()
    torch.testing.assert_close(found[0], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", REFERENCES)
def test_constant_features_stay_finite(name: str) -> None:
    module = Whitening(6, shrinkage=name)
    assert module(torch.full((4, 6), 2.0)).abs().max() < 1e-3


@pytest.mark.parametrize("name", REFERENCES)
def test_momentum_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="momentum must be 0"):
        Whitening(6, shrinkage=name, momentum=0.1)
