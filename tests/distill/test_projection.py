import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import gan_vkd.distill.projection as maps
from gan_vkd.distill import PROJECTIONS, VkDLoss, retract
from gan_vkd.distill.projection import (
    FrameProjection,
    OrthogonalProjection,
    canonical_frame,
    cayley,
    geodesic,
    random_frame,
    step_along,
)
from tests.processes import on_ranks
from tests.real_data import needs_shared, resnet_features

FRAMES = ["orthogonal", "orthogonal_static", "orthogonal_full", "cayley", "householder"]
WIDTHS = [(5, 12), (12, 12), (9, 12), (12, 5), (1, 4), (1, 1)]
BOUND = {torch.float32: 2e-5, torch.float64: 1e-12}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def frame_of(name: str, ds: int, dt: int, dtype: torch.dtype = torch.float32) -> FrameProjection:
    projection = PROJECTIONS.make(name, ds, dt).to(dtype)
    assert isinstance(projection, FrameProjection)
    return projection


def deviation(p: Tensor) -> float:
    tall = p if p.shape[0] >= p.shape[1] else p.T
    return float((tall.T @ tall - torch.eye(tall.shape[1], dtype=p.dtype)).abs().max())


def train_towards(projection: nn.Module, target: Tensor, steps: int, lr: float) -> float:
    """Returns the distance of P to `target` after training with Adam and retractions."""
    optimizer = torch.optim.Adam(projection.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = (projection.matrix() - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        retract(projection)
        schedule.step()
    return float((projection.matrix() - target).detach().norm())


# the exponential


def skew(tangent: Tensor) -> Tensor:
    """Returns the dense skew-symmetric matrix of the published form, from its k free columns."""
    n, k = tangent.shape
    a = torch.zeros(n, n, dtype=tangent.dtype)
    a[:, :k] = tangent
    a[:k, :k] -= tangent[:k].T
    a[:k, k:] = -tangent[k:].T
    return a


@pytest.mark.parametrize(("n", "k"), [(12, 5), (12, 3), (40, 7), (12, 9), (12, 12), (4, 1)])
def test_the_thin_and_full_exponentials_equal_the_published_form(n: int, k: int) -> None:
    tangent = torch.randn(n, k, dtype=torch.float64)
    published = torch.linalg.matrix_exp(skew(tangent))[:, :k]
    for thin in (True, False):
        found = geodesic(canonical_frame(n, k).double(), tangent, thin)
        assert (found - published).abs().max() < 1e-10


@pytest.mark.parametrize("thin", [True, False])
def test_the_exponential_is_exact_at_any_frame(thin: bool) -> None:
    from scipy.linalg import expm

    base = geodesic(canonical_frame(10, 3).double(), torch.randn(10, 3, dtype=torch.float64))
    tangent = torch.randn(10, 3, dtype=torch.float64)
    a = (tangent @ base.T).numpy()
    expected = torch.from_numpy(expm(a - a.T)) @ base
    assert (geodesic(base, tangent, thin) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("thin", [True, False])
def test_gradcheck_of_the_exponential(thin: bool) -> None:
    base = geodesic(canonical_frame(7, 2).double(), torch.randn(7, 2, dtype=torch.float64))
    tangent = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: geodesic(base, x, thin), tangent)


def test_the_cayley_map_matches_its_dense_formula() -> None:
    base, tangent = random_frame(9, 3).double(), torch.randn(9, 3, dtype=torch.float64)
    a = tangent @ base.T - base @ tangent.T
    unit = torch.eye(9, dtype=torch.float64)
    expected = torch.linalg.solve(unit - a / 2, (unit + a / 2) @ base)
    assert (cayley(base, tangent) - expected).abs().max() < 1e-12


def test_the_rebased_gradient_is_that_of_the_exponential_at_its_base() -> None:
    """dX - P0 dX^T P0 equals the gradient through the exponential at X = 0."""
    projection = frame_of("orthogonal", 4, 11, torch.float64)
    weights = torch.randn(11, 4, dtype=torch.float64)
    (projection.matrix() * weights).sum().backward()
    tangent = torch.zeros(11, 4, dtype=torch.float64, requires_grad=True)
    assert isinstance(projection, OrthogonalProjection)
    (geodesic(projection.base, tangent) * weights).sum().backward()
    assert projection.tangent.grad is not None
    assert tangent.grad is not None
    assert (projection.tangent.grad - tangent.grad).abs().max() < 1e-12


# every orthonormal projection


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize(("ds", "dt"), WIDTHS)
@pytest.mark.parametrize("dtype", BOUND)
def test_projections_are_orthonormal_and_keep_inner_products(
    name: str, ds: int, dt: int, dtype: torch.dtype
) -> None:
    projection = frame_of(name, ds, dt, dtype)
    p = projection.matrix().detach()
    assert p.shape == (dt, ds)
    assert p.dtype == dtype
    assert deviation(p) < BOUND[dtype]
    z = torch.nn.functional.normalize(torch.randn(20, ds, dtype=dtype))
    y = projection(z).detach()
    assert y.shape == (20, dt)
    if ds <= dt:
        assert (y @ y.T - z @ z.T).abs().max() < BOUND[dtype]
    else:
        assert ((y @ p) @ p.T - y).abs().max() < 10 * BOUND[dtype]


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("dtype", BOUND)
def test_projections_stay_orthonormal_for_a_thousand_steps(name: str, dtype: torch.dtype) -> None:
    projection = frame_of(name, 8, 20, dtype)
    start = projection.matrix().detach().clone()
    target = torch.randn(20, 8, dtype=dtype)
    optimizer = torch.optim.Adam(projection.parameters(), 1e-2)
    for _ in range(1000):
        optimizer.zero_grad()
        (projection.matrix() * (target + 0.3 * torch.randn_like(target))).sum().backward()
        optimizer.step()
        retract(projection)
    p = projection.matrix().detach()
    assert (p - start).norm() > 1
    assert deviation(p) < BOUND[dtype]


@needs_shared
@pytest.mark.parametrize("name", FRAMES)
def test_projections_stay_orthonormal_on_real_features(name: str) -> None:
    """1,000 steps of the loss from half of a ResNet-20's features to a ResNet-56's."""
    student, teacher = (resnet_features(depth)[0] for depth in (20, 56))
    student = student[:, :32]
    method = VkDLoss(32, 64, projection=name, normalization="whitening")
    optimizer = torch.optim.Adam(method.parameters(), 2e-3)
    losses = []
    for step in range(1000):
        rows = torch.arange(50 * step, 50 * (step + 1)) % len(student)
        loss = method(student[rows], teacher[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        retract(method)
        losses.append(loss.detach())
    assert torch.stack(losses[-20:]).mean() < torch.stack(losses[10:30]).mean()
    assert isinstance(method.project, FrameProjection)
    assert deviation(method.project.matrix().detach()) < BOUND[torch.float32]
    z = torch.nn.functional.normalize(student[:200])
    y = method.project(z).detach()
    assert (y @ y.T - z @ z.T).abs().max() < BOUND[torch.float32]


@pytest.mark.parametrize(
    ("name", "steps", "lr"),
    [("orthogonal", 400, 0.1), ("orthogonal_static", 1200, 0.3), ("orthogonal_full", 1200, 0.3)],
)
@pytest.mark.parametrize(("ds", "dt"), [(3, 7), (5, 7), (7, 3)])
def test_gradient_descent_reaches_a_random_orthonormal_target(
    name: str, steps: int, lr: float, ds: int, dt: int
) -> None:
    target = random_frame(max(ds, dt), min(ds, dt))
    target = target if ds < dt else target.T
    assert train_towards(frame_of(name, ds, dt), target, steps, lr) < 1e-3


@pytest.mark.parametrize("name", FRAMES)
def test_gradient_by_finite_differences(name: str) -> None:
    projection = frame_of(name, 3, 7, torch.float64)
    weights = torch.randn(7, 3, dtype=torch.float64)
    (projection.matrix() * weights).sum().backward()
    (parameter,) = projection.parameters()
    gradient = parameter.grad
    assert gradient is not None
    for _ in range(5):
        direction = torch.randn_like(parameter)
        ends = []
        for sign in (1, -1):
            probe = copy.deepcopy(projection)
            with torch.no_grad():
                next(probe.parameters()).add_(sign * 1e-6 * direction)
            retract(probe)
            ends.append(float((probe.matrix() * weights).sum().detach()))
        slope = (ends[0] - ends[1]) / 2e-6
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-6, abs=1e-8)


# several forwards and backwards a step


@pytest.mark.parametrize("name", FRAMES)
def test_gradients_accumulate(name: str) -> None:
    projection = frame_of(name, 4, 9)
    optimizer = torch.optim.SGD(projection.parameters(), 0.1)
    parts = [torch.randn(6, 4) for _ in range(3)]
    for _ in range(3):
        optimizer.zero_grad()
        for part in parts:
            projection(part).square().mul(torch.arange(9)).mean().div(3).backward()
        (accumulated,) = [p.grad.clone() for p in projection.parameters() if p.grad is not None]
        optimizer.zero_grad()
        projection(torch.cat(parts)).square().mul(torch.arange(9)).mean().backward()
        (at_once,) = [p.grad for p in projection.parameters() if p.grad is not None]
        torch.testing.assert_close(accumulated, at_once, rtol=1e-4, atol=1e-5)
        optimizer.step()
        retract(projection)


def test_the_exponential_is_computed_once_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []

    def counting(base: Tensor, tangent: Tensor) -> Tensor:
        made.append(tangent)
        return step_along(base, tangent)

    monkeypatch.setattr(maps, "step_along", counting)
    projection = frame_of("orthogonal", 4, 9)
    optimizer = torch.optim.SGD(projection.parameters(), 0.1)
    for step in range(1, 4):
        for _ in range(3):
            projection(torch.randn(6, 4)).square().mul(torch.arange(9)).mean().backward()
        optimizer.step()
        retract(projection)
        assert len(made) == step


def test_training_equals_differentiating_the_exponential_and_moving_the_base() -> None:
    """50 Adam steps on X through the exponential, after each of which the base absorbs X."""
    projection = frame_of("orthogonal", 4, 9, torch.float64)
    assert isinstance(projection, OrthogonalProjection)
    base, tangent = projection.base.clone(), nn.Parameter(projection.tangent.detach().clone())
    ours = torch.optim.Adam(projection.parameters(), 0.05)
    theirs = torch.optim.Adam([tangent], 0.05)
    for _ in range(50):
        weights = torch.randn(9, 4, dtype=torch.float64)
        for optimizer, p in ((ours, projection.matrix()), (theirs, geodesic(base, tangent))):
            optimizer.zero_grad()
            (p.square() * weights).sum().backward()
            optimizer.step()
        retract(projection)
        with torch.no_grad():
            base = geodesic(base, tangent)
            tangent.zero_()
    assert (projection.base - base).abs().max() < 1e-12


def test_a_forgotten_retraction_is_an_error() -> None:
    method = VkDLoss(4, 9)
    optimizer = torch.optim.SGD(method.parameters(), 0.1)
    z, y = torch.randn(6, 4), torch.randn(6, 9)
    method(z, y).backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"needs retract\(\) after each optimizer.step\(\)"):
        method(z, y)
    retract(method)
    assert deviation(method.project.matrix().detach()) < 2e-5


@pytest.mark.parametrize("name", FRAMES)
def test_the_matrix_is_updated_after_any_change(name: str) -> None:
    projection, other = frame_of(name, 4, 9), frame_of(name, 4, 9)
    before = projection.matrix().detach().clone()
    projection.load_state_dict(other.state_dict())
    assert torch.equal(projection.matrix(), other.matrix())
    assert not torch.allclose(projection.matrix(), before)

    projection.double()
    assert projection.matrix().dtype == torch.float64
    assert deviation(projection.matrix().detach()) < 1e-12
    projection.float()

    # a write that autograd does not track, as by fused optimisers of other libraries
    p = projection.matrix()
    p.square().mul(torch.randn(9, 4)).sum().backward()
    (parameter,) = projection.parameters()
    parameter.data.add_(torch.randn_like(parameter))
    retract(projection)
    assert not torch.allclose(projection.matrix(), p, atol=1e-3)


@pytest.mark.parametrize("name", FRAMES)
def test_projections_can_be_copied_and_pickled(name: str) -> None:
    projection = frame_of(name, 4, 9)
    p = projection.matrix().detach()
    assert torch.equal(copy.deepcopy(projection).matrix(), p)
    assert torch.equal(pickle.loads(pickle.dumps(projection)).matrix(), p)


@pytest.mark.parametrize("name", ["orthogonal", "cayley"])  # one of each construction
def test_projections_can_be_compiled(name: str) -> None:
    projection = frame_of(name, 4, 9)
    compiled = torch.compile(projection, backend="aot_eager", fullgraph=True)
    z = torch.randn(5, 4)
    optimizer = torch.optim.SGD(projection.parameters(), 0.1)
    for _ in range(3):
        for _ in range(2):
            compiled(z).square().mul(torch.arange(9)).sum().backward()
        expected = z @ projection.matrix().T
        torch.testing.assert_close(compiled(z), expected)
        optimizer.step()
        retract(compiled)


@pytest.mark.parametrize("name", FRAMES)
def test_projections_compute_in_float32_under_autocast_and_in_half_models(name: str) -> None:
    projection = frame_of(name, 4, 9)
    with torch.autocast("cpu", torch.bfloat16):
        y = projection(torch.randn(5, 4, dtype=torch.bfloat16))
        p = projection.matrix().detach()
    assert y.dtype == torch.float32
    assert deviation(p) < 2e-5
    y.sum().backward()
    projection.to(torch.bfloat16)
    assert deviation(projection.matrix().detach()) < 2e-5
    with torch.inference_mode():
        assert deviation(projection.matrix()) < 2e-5
    projection(torch.randn(5, 4)).sum().backward()


def test_retraction_does_not_change_the_projection() -> None:
    """Absorbing the tangent into the base changes the coordinates, not the projection."""
    projection = frame_of("orthogonal", 4, 9)
    assert isinstance(projection, OrthogonalProjection)
    projection.matrix().square().mul(torch.randn(9, 4)).sum().backward()
    torch.optim.SGD(projection.parameters(), 0.5).step()
    state = {k: v.clone() for k, v in projection.state_dict().items()}
    assert state["tangent"].abs().max() > 0
    before = geodesic(projection.base, projection.tangent)
    projection.retract()
    torch.testing.assert_close(projection.matrix(), before)
    assert not projection.tangent.any()
    moved = projection.base.clone()
    projection.retract()
    assert torch.equal(projection.base, moved)

    resumed = OrthogonalProjection(4, 9)
    resumed.load_state_dict(state)
    assert torch.equal(resumed.matrix(), projection.matrix())
    resumed.load_state_dict(projection.state_dict())
    assert torch.equal(resumed.matrix(), projection.matrix())


def _ddp_gradient(rank: int, world: int, file: str, queue: torch.multiprocessing.Queue) -> None:
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=world)
    torch.manual_seed(rank)  # DDP takes parameters and buffers from rank 0
    module = nn.parallel.DistributedDataParallel(OrthogonalProjection(4, 9))
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    source = torch.Generator().manual_seed(7)
    for _ in range(5):
        z = torch.randn(8, 4, generator=source)[rank * 4 : rank * 4 + 4]
        optimizer.zero_grad()
        module(z).square().mul(torch.arange(9)).mean().backward()
        optimizer.step()
        retract(module)
    queue.put((rank, module.module.matrix().detach().numpy()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ddp_ranks_equal_one_process(tmp_path: object) -> None:
    found = {
        rank: torch.from_numpy(p)
        for rank, p in on_ranks(2, _ddp_gradient, f"{tmp_path}/store").items()
    }
    torch.manual_seed(0)
    one = OrthogonalProjection(4, 9)
    optimizer = torch.optim.Adam(one.parameters(), 0.05)
    source = torch.Generator().manual_seed(7)
    for _ in range(5):
        optimizer.zero_grad()
        one(torch.randn(8, 4, generator=source)).square().mul(torch.arange(9)).mean().backward()
        optimizer.step()
        retract(one)
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], one.matrix().detach(), rtol=0, atol=1e-5)


# the other projections


@pytest.mark.parametrize("name", PROJECTIONS)
def test_all_projections_share_an_interface(name: str) -> None:
    projection = PROJECTIONS.make(name, 6, 6)
    assert projection(torch.randn(2, 3, 6)).shape == (2, 3, 6)
    for ds, dt in ((0, 4), (4, 0), (-1, 4)):
        with pytest.raises(ValueError, match="positive widths"):
            PROJECTIONS.make(name, ds, dt)


def test_the_mlp_matches_its_formula() -> None:
    mlp, z = PROJECTIONS.make("mlp", 3, 4), torch.randn(20, 3)
    w1, b1, w2, b2 = mlp.parameters()
    hidden = z @ w1.T + b1
    assert (hidden < 0).any()
    torch.testing.assert_close(mlp(z), hidden.clamp_min(0) @ w2.T + b2)


def test_the_identity_refuses_unequal_widths() -> None:
    with pytest.raises(ValueError, match="equal widths, got student 3, teacher 4"):
        PROJECTIONS.make("identity", 3, 4)
