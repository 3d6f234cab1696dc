"""Training on CUDA: no waits, the results of a CPU, exact resume. Without CUDA the CPU stands in.

With the CPU in place of CUDA the same code runs, but a comparison with the CPU says nothing.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from gan_vkd.data.batches import Batch
from gan_vkd.distill import PROJECTIONS
from gan_vkd.distill.normalization import RunningCovariance
from gan_vkd.distill.projection import FrameProjection, random_frame
from gan_vkd.distill.retraction import step_along
from gan_vkd.game.trainer import Trainer
from gan_vkd.networks.interface import Generator
from tests.conftest import MakeSettings
from tests.distill.normalizations import make_normalization
from tests.distill.samples import correlated
from tests.states import flat
from tests.test_gan import batch, build

ARMS = ["none", "layernorm", "whitening"]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device, on which convolutions do not use TF32; products of matrices do not by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield request.param
    torch.backends.cudnn.allow_tf32 = before


def images_on(device: str) -> Batch:
    return Batch(*(value.to(device) for value in batch()))


def iteration(gan: Trainer, given: Batch, number: int) -> dict[str, torch.Tensor]:
    """One iteration with all its losses, by name and update."""
    losses = {}
    for update in range(number * gan.d_steps, (number + 1) * gan.d_steps):
        step = gan.discriminator_step(given, given.labels, update)
        losses |= {f"{update}.{name}": value.detach() for name, value in step.items()}
    return losses | {
        f"{number}.{name}": value.detach()
        for name, value in gan.generator_step(given.labels, number).items()
    }


@contextmanager
def no_waits(device: str) -> Iterator[None]:
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("arm", ARMS)
def test_twenty_iterations_do_not_wait(arm: str, small: MakeSettings, device: str) -> None:
    gan, given = build(small, arm=arm, device=device), images_on(device)
    for number in range(20):
        updates = range(number * gan.d_steps, (number + 1) * gan.d_steps)
        for update in updates:  # those that decompose wait
            waits = gan.discriminator_variant(update) is None
            with no_waits("cpu" if waits else device):
                gan.discriminator_step(given, given.labels, update)
        with no_waits(device):
            gan.generator_step(given.labels, number)


def on_both(
    small: MakeSettings, device: str, monkeypatch: pytest.MonkeyPatch, *overrides: str, arm: str
) -> tuple[Trainer, Trainer]:
    """Trainers on the CPU and the device, with the same latents and without augmentation."""

    def latents(self: Generator, count: int, device: Any = "cpu", source: Any = None) -> Any:
        return torch.randn(count, self.z_dim).to(device)

    monkeypatch.setattr(Generator, "latents", latents)
    first, second = (
        build(small, "augment=[]", *overrides, arm=arm, device=kind) for kind in ("cpu", device)
    )
    return first, second


TERMS = "regularize={lecam: 0.3, lecam_start: 0, r1: 0.5, r1_every: 1}"


@pytest.mark.parametrize(("arm", "overrides"), [*((arm, ()) for arm in ARMS), ("none", (TERMS,))])
def test_losses_and_gradients_are_those_of_the_cpu(
    arm: str,
    overrides: tuple[str, ...],
    small: MakeSettings,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, gradients = [], []
    for gan in on_both(small, device, monkeypatch, *overrides, arm=arm):
        given = images_on(gan.device)
        torch.manual_seed(1)
        losses = iteration(gan, given, 0)
        gradients.append(gan.discriminator_gradients() | gan.generator_gradients())
        gradients[-1] = {name: x.cpu().clone() for name, x in gradients[-1].items()}
        losses |= iteration(gan, given, 1) | iteration(gan, given, 2)
        found.append({name: value.cpu() for name, value in losses.items()})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=1e-4, msg=name)
    for name, value in gradients[0].items():
        apart = float((gradients[1][name] - value).norm())
        assert apart <= 1e-3 * float(value.norm()) + 1e-4, name


@pytest.mark.parametrize(
    "name", ["whitening", "whitening_pca", "whitening_cholesky", "phi_s", "standardize"]
)
@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_normalisations_are_those_of_the_cpu(name: str, statistics: str, device: str) -> None:
    ours, theirs = (make_normalization(name, 64, statistics=statistics) for _ in range(2))
    theirs.to(device)
    for seed in range(5):
        z = correlated(300, 64, seed=seed)
        found = theirs(z.to(device)).cpu()
        torch.testing.assert_close(found, ours(z), rtol=1e-5, atol=1e-5)
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[key].cpu(), value, rtol=1e-8, atol=1e-8)
    if isinstance(ours, RunningCovariance):
        torch.testing.assert_close(theirs.effective_rank.cpu(), ours.effective_rank)


@pytest.mark.parametrize(
    "name", ["orthogonal", "orthogonal_static", "orthogonal_full", "cayley", "householder"]
)
def test_projections_are_those_of_the_cpu(name: str, device: str) -> None:
    torch.manual_seed(0)
    ours, theirs = (PROJECTIONS.make(name, 20, 50) for _ in range(2))
    assert isinstance(ours, FrameProjection)
    assert isinstance(theirs, FrameProjection)
    theirs.load_state_dict(ours.state_dict())
    theirs.to(device)
    expected, found = ours.matrix(), theirs.matrix()
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5)
    weights = torch.randn(50, 20)
    (expected * weights).sum().backward()
    (found * weights.to(device)).sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(b.grad.cpu(), a.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_steps_of_the_projection_are_those_of_the_cpu(size: float, device: str) -> None:
    torch.manual_seed(0)
    base, tangent = random_frame(300, 120), size * torch.randn(300, 120)
    expected = step_along(base, tangent)
    with no_waits(device):
        found = step_along(base.to(device), tangent.to(device))
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5)


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("arm", ARMS)
def test_a_restored_trainer_continues_bit_for_bit(
    arm: str, small: MakeSettings, device: str
) -> None:
    given = images_on(device)
    overrides = ("distill.method.normalization.every=3",) if arm == "whitening" else ()
    gan, other = (build(small, *overrides, arm=arm, device=device) for _ in range(2))

    def train(trainer: Trainer, numbers: range) -> list[torch.Tensor]:
        losses: list[torch.Tensor] = []
        for number in numbers:
            torch.manual_seed(number)  # of all devices
            losses += iteration(trainer, given, number).values()
        return losses

    train(gan, range(3))
    other.load_state(copy.deepcopy(gan.state()))
    expected, found = train(gan, range(3, 6)), train(other, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    ours, theirs = flat(gan.state()), flat(other.state())
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        same = torch.equal(value, theirs[key]) if torch.is_tensor(value) else value == theirs[key]
        assert same, key
