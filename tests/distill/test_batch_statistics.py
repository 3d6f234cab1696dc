"""`statistics: batch`: those of the batch in training, running ones in eval mode."""

import pytest
import torch
from torch import Tensor

from tests.distill.normalizations import make_normalization
from tests.distill.samples import correlated, distance_to_identity

WHITENINGS = ["whitening", "whitening_pca", "whitening_cholesky"]
ALL = [*WHITENINGS, "phi_s", "standardize"]
EXACT = {"eps": 0.0, "shrinkage": 0.0}


def plain_cholesky(z: Tensor) -> Tensor:
    """Whitening2d of github.com/htdt/self-supervised in training, with eps 0, divided by N."""
    centred = z - z.mean(0)
    factor = torch.linalg.cholesky(centred.T @ centred / len(z))
    return torch.linalg.solve_triangular(factor, centred.T, upper=False).T


@pytest.mark.parametrize("name", WHITENINGS)
def test_every_batch_gets_identity_covariance(name: str) -> None:
    module = make_normalization(name, 8, statistics="batch", **EXACT)
    for seed, scale in enumerate((1.0, 50.0, 0.1)):
        white = module(correlated(100, 8, seed=seed).float() * scale)
        assert distance_to_identity(white) < 1e-3
        assert white.mean(0).abs().max() < 1e-3


def test_cholesky_matches_its_formula() -> None:
    module = make_normalization("whitening_cholesky", 16, statistics="batch", **EXACT)
    for seed in range(3):
        z = correlated(50, 16, seed=seed)
        torch.testing.assert_close(module(z), plain_cholesky(z).float())


@pytest.mark.parametrize("name", WHITENINGS)
def test_fewer_samples_than_dimensions_are_whitened_in_their_span(name: str) -> None:
    """Centred samples of full rank B - 1 become equidistant."""
    module = make_normalization(name, 32, statistics="batch", **EXACT)
    white = module(correlated(10, 32)).double()
    equal = 10 * torch.eye(10).double() - 1
    torch.testing.assert_close(white @ white.T, equal, rtol=0, atol=1e-3)


def test_zca_of_a_singular_covariance_is_the_pseudo_inverse_root() -> None:
    z = correlated(10, 32)
    module = make_normalization("whitening", 32, statistics="batch", **EXACT)
    centred = z - z.mean(0)
    u, _, vt = torch.linalg.svd(centred, full_matrices=False)
    expected = 10**0.5 * u[:, :9] @ vt[:9]
    torch.testing.assert_close(module(z).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("samples", [1, 3])
def test_default_options_are_finite_on_the_smallest_batches(name: str, samples: int) -> None:
    module = make_normalization(name, 8, statistics="batch")
    assert module(correlated(samples, 8)).isfinite().all()
    assert module(torch.full((samples, 8), 2.0)).abs().max() < 1e-3


def test_standardize_is_batch_norm_without_affine_parameters() -> None:
    module = make_normalization("standardize", 8, statistics="batch")
    for seed in range(2):
        z = correlated(40, 8, seed=seed).float()
        expected = torch.nn.functional.batch_norm(z, None, None, training=True)
        torch.testing.assert_close(module(z), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("momentum", [0.0, 0.3])
def test_eval_mode_uses_running_statistics(name: str, momentum: float) -> None:
    modules = [
        make_normalization(name, 8, statistics=statistics, momentum=momentum)
        for statistics in ("batch", "running")
    ]
    for seed in range(4):
        z = correlated(30, 8, seed=seed) + seed
        batch, running = (module(z) for module in modules)
    assert not torch.allclose(batch, running, atol=1e-2)
    z = correlated(30, 8, seed=9)
    batch, running = (module.eval()(z) for module in modules)
    assert torch.equal(batch, running)


def test_unknown_statistics_are_refused() -> None:
    with pytest.raises(ValueError, match="must be one of running, batch, training_set, got all"):
        make_normalization("whitening", 8, statistics="all")


@pytest.mark.parametrize("name", ["whitening", "phi_s", "standardize"])
def test_statistics_of_the_training_set_are_fitted_first_and_do_not_change(name: str) -> None:
    module = make_normalization(name, 8, statistics="training_set")
    features = correlated(200, 8).float()
    with pytest.raises(ValueError, match="call fit first"):
        module(features)
    module.fit([features])
    before = {key: value.clone() for key, value in module.state_dict().items()}
    plain = make_normalization(name, 8)
    plain.fit([features])
    assert torch.equal(module(features[:20]), plain(features[:20]))
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
