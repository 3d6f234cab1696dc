"""PHI-S: unit variance in every dimension by a rotation and one scale."""

import numpy as np
import pytest
import torch
from scipy import linalg

from gan_vkd.distill.normalization import PhiS, hadamard
from tests.distill.samples import correlated
from tests.real_data import needs_shared, resnet_features


@pytest.mark.parametrize(
    "width", [1, 2, 4, 12, 20, 28, 36, 44, 96, 192, 320, 384, 768, 1152, 1280, 2048, 3024]
)
def test_hadamard_rows_are_orthogonal_and_entries_equal(width: int) -> None:
    signs = (hadamard(width) * width**0.5).round().float()
    assert (signs.abs() == 1).all()
    assert torch.equal(signs @ signs.T, width * torch.eye(width))
    torch.testing.assert_close(hadamard(width).abs().amin(), torch.tensor(width).double().rsqrt())


@pytest.mark.parametrize("width", [1, 2, 8, 64])
def test_powers_of_two_are_those_of_scipy(width: int) -> None:
    np.testing.assert_allclose(hadamard(width), linalg.hadamard(width) / width**0.5)


@pytest.mark.parametrize("width", [3, 6, 50, 92])  # 92 has another construction
def test_other_widths_are_refused_in_one_line(width: int) -> None:
    with pytest.raises(ValueError, match=f"no Hadamard matrix of width {width}") as error:
        PhiS(width)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("width", [8, 12, 64])
def test_every_dimension_gets_unit_variance_and_distances_are_scaled_equally(width: int) -> None:
    z = correlated(200, width)
    module = PhiS(width, eps=0.0)
    module.fit(z.split(50))
    out = module(z).double()
    assert out.mean(0).abs().max() < 1e-4
    torch.testing.assert_close(out.var(0, correction=0), torch.ones(width).double())
    factor = torch.pdist(out) / torch.pdist(z)
    phi = torch.linalg.eigvalsh(z.T.cov(correction=0)).mean().sqrt()
    torch.testing.assert_close(factor, (1 / phi).expand_as(factor), rtol=1e-4, atol=0)


def test_fewer_samples_than_dimensions_have_unit_variance_too() -> None:
    z = correlated(10, 32)
    module = PhiS(32, eps=0.0)
    module.fit([z])
    out = module(z).double()
    torch.testing.assert_close(out.var(0, correction=0), torch.ones(32).double())


def test_constant_features_map_to_zero() -> None:
    module = PhiS(8, eps=0.0)
    module.fit([torch.full((4, 8), 2.0)])
    assert not module(torch.full((4, 8), 2.0)).any()


@needs_shared
def test_real_features_keep_their_geometry_on_unseen_images() -> None:
    features, unseen = resnet_features(20)
    module = PhiS(64, eps=0.0)
    module.fit(features.split(100))
    out = module(features)
    torch.testing.assert_close(out.var(0, correction=0), torch.ones(64), rtol=1e-3, atol=0)
    factor = torch.pdist(module(unseen)[:100]) / torch.pdist(unseen[:100])
    assert factor.std() / factor.mean() < 1e-4
