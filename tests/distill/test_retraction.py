"""A step along the geodesic against the published exponential, up to half a turn and beyond."""

import math

import pytest
import torch
from torch import Tensor

from gan_vkd.distill.projection import OrthogonalProjection, random_frame
from gan_vkd.distill.retraction import step_along

BOUND = {torch.float32: 1e-6, torch.float64: 1e-13}
SHAPES = [(9, 4), (40, 7), (12, 9), (12, 12), (4, 1), (1, 1), (96, 40)]


def frame(n: int, k: int) -> Tensor:
    torch.manual_seed(0)
    return torch.linalg.qr(torch.randn(n, k, dtype=torch.float64))[0]


def generator(base: Tensor, tangent: Tensor) -> Tensor:
    half = tangent @ base.T
    return half - half.T


def norm_bound(a: Tensor) -> float:
    """(||A^2||_F^2 / 2)^(1/4), from the eigenvalues of A, +-i w."""
    return float((torch.linalg.eigvals(a).abs() ** 4).sum() / 2) ** 0.25


def published(a: Tensor, base: Tensor) -> Tensor:
    """expm(A) P0 of a skew-symmetric A, from its eigenvalues."""
    values, vectors = torch.linalg.eigh(1j * a)
    return (vectors * torch.exp(-1j * values) @ vectors.mH).real @ base


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-6, 0.01, 1.0, 0.999 * math.pi])
@pytest.mark.parametrize("dtype", BOUND)
def test_a_step_equals_the_published_exponential(
    n: int, k: int, size: float, dtype: torch.dtype
) -> None:
    base, tangent = frame(n, k), torch.randn(n, k, dtype=torch.float64)
    bound = norm_bound(generator(base, tangent))
    tangent = size * tangent / (bound or 1.0)  # for n = 1, A is zero
    expected = published(generator(base, tangent), base)
    found = step_along(base.to(dtype), tangent.to(dtype))
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() < BOUND[dtype]


@pytest.mark.parametrize("size", [0.1, 1.0, math.pi])
def test_a_turn_in_one_plane_is_exact_up_to_half_a_turn(size: float) -> None:
    """Here the bound equals the norm, so that the largest angle is pi itself."""
    base, beside = frame(9, 9)[:, :4], frame(9, 9)[:, -1]
    expected = base.clone()
    expected[:, 1] = math.cos(size) * base[:, 1] + math.sin(size) * beside
    tangent = torch.zeros_like(base)
    tangent[:, 1] = size * beside
    assert (step_along(base, tangent) - expected).abs().max() < 1e-13


@pytest.mark.parametrize(("n", "k"), [(9, 4), (12, 12), (4, 1)])
@pytest.mark.parametrize("size", [4.0, 1e6, 1e37])
@pytest.mark.parametrize("dtype", BOUND)
def test_a_longer_step_is_shortened_to_half_a_turn(
    n: int, k: int, size: float, dtype: torch.dtype
) -> None:
    base, tangent = frame(n, k), torch.randn(n, k, dtype=torch.float64)
    a = generator(base, tangent)
    expected = published(a * math.pi / norm_bound(a), base)
    tangent = size * tangent / tangent.abs().max()
    found = step_along(base.to(dtype), tangent.to(dtype))
    assert (found.double() - expected).abs().max() < BOUND[dtype]


def test_the_bound_is_never_below_the_norm() -> None:
    for n, k in SHAPES:
        a = generator(frame(n, k), torch.randn(n, k, dtype=torch.float64))
        assert norm_bound(a) >= float(torch.linalg.matrix_norm(a, 2)) - 1e-12


@pytest.mark.parametrize("rank", [1, 100, None])
@pytest.mark.parametrize("lr", [2e-4, 1e-3])
def test_first_steps_of_adam_at_full_width_are_not_shortened(rank: int | None, lr: float) -> None:
    """From 512 to 1,280 features. They equal X - P0 X^T P0 to first order, for any rank."""
    torch.manual_seed(0)
    projection = OrthogonalProjection(512, 1280)
    base = projection.base.clone()
    gradient = torch.randn(1280, 512)
    if rank is not None:
        gradient = torch.randn(1280, rank) @ torch.randn(rank, 512)
    projection.tangent.grad = gradient
    torch.optim.Adam(projection.parameters(), lr).step()
    step = projection.tangent.detach().clone()
    assert step.abs().max() == pytest.approx(lr, rel=1e-3)
    first_order = step - base @ (step.T @ base)
    norm = float(torch.linalg.matrix_norm(first_order, 2))
    assert norm < math.pi
    projection.retract()
    error = torch.linalg.matrix_norm(projection.base - base - first_order, 2)
    assert float(error) < 0.6 * norm**2 + 1e-5


def test_a_step_that_is_not_finite_is_not_hidden() -> None:
    base = random_frame(9, 4)
    for value in (math.nan, math.inf):
        tangent = torch.zeros(9, 4)
        tangent[3, 2] = value
        assert not step_along(base, tangent).isfinite().all()


def test_gradcheck_of_a_step() -> None:
    base = frame(7, 2)
    tangent = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: step_along(base, x), tangent)
