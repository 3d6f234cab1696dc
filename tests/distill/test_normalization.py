import copy
import math

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import nn

from gan_vkd.distill import NORMALIZATIONS
from gan_vkd.distill.normalization import Standardize, Whitening
from tests.distill.normalizations import make_normalization
from tests.distill.samples import correlated, distance_to_identity
from tests.real_data import needs_shared, resnet_features

WHITENINGS = ["whitening", "whitening_pca", "whitening_cholesky"]
WITH_STATISTICS = [*WHITENINGS, "phi_s", "standardize"]
EXACT = {"eps": 0.0, "shrinkage": 0.0}


def exact(name: str, d: int, **options: object) -> nn.Module:
    extra = EXACT if name in WHITENINGS else {"eps": 0.0}
    return make_normalization(name, d, **extra, **options)


# whitening


@pytest.mark.parametrize("name", WHITENINGS)
@pytest.mark.parametrize("d", [1, 8, 64])
def test_the_fitted_set_gets_identity_covariance_and_a_heldout_set_approximately(
    name: str, d: int
) -> None:
    module = exact(name, d)
    module.fit(correlated(4000, d).float().split(100))
    white = module(correlated(4000, d).float())
    assert white.dtype == torch.float32
    assert distance_to_identity(white) < 1e-4
    assert white.mean(0).abs().max() < 1e-4
    heldout = module(correlated(4000, d, seed=1).float())
    assert distance_to_identity(heldout) < 2 * math.sqrt(d / 4000)


@needs_shared
@pytest.mark.parametrize("name", WHITENINGS)
def test_whitening_gives_real_features_identity_covariance(name: str) -> None:
    features, unseen = resnet_features(20)
    module = exact(name, 64)
    module.fit(features.split(100))
    assert distance_to_identity(module(features)) < 1e-4
    assert distance_to_identity(module(unseen)) < 2 * (
        math.sqrt(64 / len(features)) + math.sqrt(64 / len(unseen))
    )


def test_zca_matches_the_closed_form() -> None:
    z = correlated(300, 12)
    module = Whitening(12, shrinkage=0.25, eps=1e-3)
    module.fit(z.split(50))
    cov = np.cov(z.numpy(), rowvar=False, bias=True)
    cov = 0.75 * cov + 0.25 * np.diag(np.diag(cov))
    root = linalg.inv(linalg.sqrtm(cov + 1e-3 * np.eye(12)))
    expected = (z.numpy() - z.numpy().mean(0)) @ root
    np.testing.assert_allclose(module(z).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(module.transform[0].numpy(), root, atol=1e-9)


def test_pca_is_that_of_scikit_learn_with_fixed_signs() -> None:
    from sklearn.decomposition import PCA

    z = correlated(300, 12)
    module = exact("whitening_pca", 12)
    module.fit([z])
    expected = PCA(whiten=True).fit_transform(z.numpy()) * math.sqrt(300 / 299)
    np.testing.assert_allclose(np.abs(module(z).numpy()), np.abs(expected), atol=1e-5)
    directions = module.transform[0]
    assert (directions.gather(0, directions.abs().argmax(0, keepdim=True)) > 0).all()


def test_cholesky_is_triangular_and_a_root_of_the_inverse() -> None:
    z = correlated(300, 12)
    module = exact("whitening_cholesky", 12)
    module.fit([z])
    w = module.transform[0].numpy()
    assert np.abs(np.tril(w, -1)).max() < 1e-10
    inverse = linalg.inv(np.cov(z.numpy(), rowvar=False, bias=True))
    np.testing.assert_allclose(w @ w.T, inverse, rtol=1e-6, atol=1e-6 * np.abs(inverse).max())


def test_zca_does_not_depend_on_the_basis() -> None:
    z = correlated(300, 12)
    turn = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))[0]
    module, turned = exact("whitening", 12), exact("whitening", 12)
    module.fit([z])
    turned.fit([z @ turn])
    torch.testing.assert_close(
        module(z).double() @ turn, turned(z @ turn).double(), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", WHITENINGS)
def test_whitening_of_fewer_samples_than_dimensions_is_finite(name: str) -> None:
    """All values are finite; zca and pca whiten the span of the samples."""
    z = correlated(10, 32)
    for shrinkage, eps in ((0.0, 0.0), (0.5, 0.0), (0.0, 1e-5), ("auto", 1e-5)):
        module = make_normalization(name, 32, shrinkage=shrinkage, eps=eps)
        module.fit([z])
        assert module(z).isfinite().all()
        assert module(correlated(5, 32, seed=2)).isfinite().all()
    if name != "whitening_cholesky":
        module = exact(name, 32)
        module.fit([z])
        white = module(z).double()
        values = torch.linalg.eigvalsh(white.T @ white / 10)
        torch.testing.assert_close(
            values[-9:], torch.ones(9, dtype=torch.float64), atol=1e-4, rtol=0
        )
        assert values[:-9].abs().max() < 1e-6


@pytest.mark.parametrize("name", WHITENINGS)
def test_constant_features_map_to_finite_values(name: str) -> None:
    module = make_normalization(name, 6)
    assert module(torch.full((4, 6), 2.0)).abs().max() < 1e-3


def test_auto_shrinkage_is_the_ratio_of_dimensions_and_helps_on_few_samples() -> None:
    few, plain, fixed = Whitening(32), exact("whitening", 32), Whitening(32, shrinkage=32 / 72)
    for module in (few, plain, fixed):
        module.fit([correlated(40, 32)])
    assert torch.equal(few.transform, fixed.transform)
    new = correlated(1000, 32, seed=5)
    assert distance_to_identity(few(new)) < distance_to_identity(plain(new)) / 3


def test_groups_are_whitened_separately() -> None:
    z = correlated(500, 12)
    module = exact("whitening", 12, groups=3)
    module.fit([z])
    for part in range(3):
        columns = slice(4 * part, 4 * part + 4)
        alone = exact("whitening", 4)
        alone.fit([z[:, columns]])
        torch.testing.assert_close(module(z)[:, columns], alone(z[:, columns]))
    grouped, alone = Whitening(12, groups=3), Whitening(4)  # shrinkage depends on the group's width
    for module, features in ((grouped, z), (alone, z[:, :4])):
        module.fit([features])
    torch.testing.assert_close(grouped.transform[0], alone.transform[0])


def test_decompositions_happen_every_n_updates_and_at_powers_of_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = []
    module = Whitening(4, every=10)
    monkeypatch.setattr(module, "decompose", lambda: taken.append(module._updates))
    for _ in range(31):
        module(torch.randn(3, 4))
    assert taken == [1, 2, 4, 8, 10, 20, 30]


# running statistics


@pytest.mark.parametrize("name", WITH_STATISTICS)
def test_running_statistics_do_not_depend_on_the_batch_sizes(name: str) -> None:
    z = correlated(300, 8)
    module = make_normalization(name, 8)
    start = 0
    for size in (1, 2, 97, 150, 50):
        module(z[start : start + size].float())
        start += size
    z = z.float().double()
    cov = torch.cov(z.T, correction=0)
    expected = cov.diagonal() if name == "standardize" else cov[None]
    torch.testing.assert_close(module.mean, z.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(module.second, expected, rtol=1e-10, atol=1e-12)
    assert int(module.samples) == 300


def test_momentum_is_an_exponential_average_of_the_moments() -> None:
    module = Standardize(3, momentum=0.5)
    first, second = torch.randn(8, 3).double(), torch.randn(8, 3).double() + 1
    for batch in (first, second, second):
        module.update(batch)
    raw = [(b.mean(0), b.square().mean(0)) for b in (first, second, second)]
    mean = ((raw[0][0] + raw[1][0]) / 2 + raw[2][0]) / 2
    square = ((raw[0][1] + raw[1][1]) / 2 + raw[2][1]) / 2
    torch.testing.assert_close(module.mean, mean)
    torch.testing.assert_close(module.second, square - mean.square())


def test_standardize_is_that_of_scikit_learn() -> None:
    from sklearn.preprocessing import StandardScaler

    z = correlated(200, 5)
    module = Standardize(5, eps=0.0, momentum=0.5)
    module(correlated(50, 5, seed=1))  # discarded by fit
    module.fit(z.split(33))
    np.testing.assert_allclose(module(z), StandardScaler().fit_transform(z.numpy()), atol=1e-5)


@pytest.mark.parametrize("name", WITH_STATISTICS)
def test_eval_and_fitted_modules_do_not_change(name: str) -> None:
    module = make_normalization(name, 4)
    module(torch.randn(20, 4))
    before = copy.deepcopy(module.state_dict())
    module.eval()
    module(torch.randn(20, 4))
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    module.train().fit([torch.randn(30, 4)])
    before = copy.deepcopy(module.state_dict())
    module(torch.randn(20, 4))
    again = make_normalization(name, 4)
    again.load_state_dict(before)
    again(torch.randn(20, 4))
    for m in (module, again):
        assert all(torch.equal(v, before[k]) for k, v in m.state_dict().items())
    with pytest.raises(ValueError, match="no features"):
        module.fit([])


@pytest.mark.parametrize("name", WITH_STATISTICS)
def test_a_restored_module_continues_identically(name: str) -> None:
    module, other = make_normalization(name, 4), make_normalization(name, 4)
    parts = torch.randn(9, 10, 4).unbind()
    for part in parts[:5]:
        module(part)
    other.load_state_dict(module.state_dict())
    for part in parts[5:]:
        assert torch.equal(module(part), other(part))


@pytest.mark.parametrize("name", WITH_STATISTICS)
def test_statistics_are_float64_under_autocast_and_in_half_models(name: str) -> None:
    z = correlated(200, 8).float()
    module, reference = make_normalization(name, 8), make_normalization(name, 8)
    expected = reference(z)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(module(z), expected)
    assert module.mean.dtype == module.second.dtype == torch.float64
    module.to(torch.bfloat16)
    assert module.mean.dtype == module.second.dtype == torch.float64
    assert torch.equal(module.eval()(z), reference.eval()(z))


# the common interface


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalisations_share_an_interface_and_have_no_gradient(name: str) -> None:
    module = make_normalization(name, 8)
    z = torch.randn(10, 8, requires_grad=True)
    y = module(z)
    assert y.shape == (10, 8)
    assert not y.requires_grad
    assert not list(module.parameters())
    with pytest.raises(ValueError, match="positive width"):
        make_normalization(name, 0)


def test_layer_norm_and_l2_normalise_each_sample() -> None:
    z = correlated(10, 6).float()
    depth = make_normalization("layer_norm", 6)(z)
    assert depth.mean(1).abs().max() < 1e-5
    torch.testing.assert_close(depth.square().mean(1), torch.ones(10), rtol=1e-3, atol=0)
    torch.testing.assert_close(make_normalization("l2", 6)(z).norm(dim=1), torch.ones(10))
    assert torch.equal(make_normalization("none", 6)(z), z)


@pytest.mark.parametrize(
    "options",
    [{"momentum": 1.5}, {"eps": -1.0}, {"shrinkage": 2.0}, {"every": 0}, {"groups": 5}],
)
def test_invalid_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        Whitening(6, **options)
