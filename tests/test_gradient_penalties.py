"""R1 and R2 in every update: against autograd by hand, finite differences and closed forms."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_vkd.data.augment import Augmentations
from gan_vkd.game.gradient_penalties import R1, SharedPenalty
from gan_vkd.game.regularization import Update
from gan_vkd.game.trainer import Trainer
from tests.conftest import MakeSettings
from tests.test_gan import batch, build

R3GAN = (
    "model={name: r3gan, channel_base: 256, channel_max: 8, group_width: 4, z_dim: 8}",
    "adversary=relativistic",
    "regularize={r1: 0.5, r2: 0.25, r1_every: 1}",
)


def randomized(trainer: Trainer) -> Trainer:
    """Gives values to the weights that are zero at initialisation."""
    for name, parameter in trainer.discriminator.named_parameters():
        if name.endswith(("conv3.weight", "bias")):
            nn.init.normal_(parameter, 0, 0.3)
    return trainer


def written_update(trainer: Trainer, seed: int) -> dict[str, Tensor]:
    """The terms of an update as in the paper, with real and fake images scored apart."""
    torch.manual_seed(seed)
    real, labels = batch().images.clone().requires_grad_(), batch().labels
    with torch.no_grad():
        fake = trainer.generator(torch.randn(8, trainer.generator.z_dim), labels)
    fake.requires_grad_()
    augment = Augmentations(["translation"])
    fake_score, real_score = (
        trainer.discriminator(augment(side), labels).score for side in (fake, real)
    )
    norms = [
        torch.autograd.grad(score.sum(), side, create_graph=True)[0].flatten(1).square().sum(1)
        for score, side in ((real_score, real), (fake_score, fake))
    ]
    return {
        "d_loss": F.softplus(-(real_score - fake_score)).mean(),
        "r1_loss": 0.5 / 2 * norms[0].mean(),
        "r2_loss": 0.25 / 2 * norms[1].mean(),
    }


def test_an_update_matches_the_equations_and_their_gradients(small: MakeSettings) -> None:
    keys = (*R3GAN, "augment=[translation]")
    trainer, other = (randomized(build(small, *keys, arm="none")) for _ in range(2))
    other.discriminator.load_state_dict(trainer.discriminator.state_dict())
    expected = written_update(other, seed=5)
    parameters = dict(other.discriminator.named_parameters())
    total = torch.stack(list(expected.values())).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()))
    torch.manual_seed(5)
    found = trainer.discriminator_step(batch(), batch().labels, 0)
    for name, value in expected.items():
        assert value > 0
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)
    for (name, _), gradient in zip(parameters.items(), gradients, strict=True):
        now = trainer.discriminator.get_parameter(name).grad
        torch.testing.assert_close(now, gradient, rtol=2e-3, atol=1e-5)


class Quadratic(nn.Module):
    """x^T A x / 2 + w x, whose gradient is (A + A^T) x / 2 + w."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(12, 12, dtype=torch.float64))
        self.w = nn.Parameter(torch.randn(12, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return ((x @ self.a) * x).sum(1) / 2 + x @ self.w


def update_of(network: nn.Module, fake: Tensor, real: Tensor, number: int = 0) -> Update:
    sides = fake.clone().requires_grad_(), real.clone().requires_grad_()
    scores = [network(side) for side in sides]
    total = torch.cat(scores).sum()
    return Update(
        number, 0, batch(), torch.cat(sides), torch.zeros(len(fake) + len(real)), *scores,
        augment=lambda x: x, score=lambda x, y: network(x),
        gradients=lambda: torch.autograd.grad(total, sides, create_graph=True),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["real", "fake"])
def test_the_penalty_has_its_closed_form_and_derivative(kind: str) -> None:
    torch.manual_seed(0)
    network, term = Quadratic(), SharedPenalty(kind, 0.5)  # type: ignore[arg-type]
    fake, real = torch.randn(2, 5, 3, 2, 2, dtype=torch.float64)
    x = {"fake": fake, "real": real}[kind].flatten(1)

    def value() -> Tensor:
        found = term.penalty(update_of(network, fake, real))
        assert found is not None
        return found

    gradient = x @ (network.a + network.a.T) / 2 + network.w
    torch.testing.assert_close(value(), 0.5 * gradient.square().sum(1).mean() / 2)
    (derivative,) = torch.autograd.grad(value(), network.a)
    direction = torch.randn_like(network.a)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            network.a.add_(sign * 1e-5 * direction)
        ends.append(value().detach())
        with torch.no_grad():
            network.a.sub_(sign * 1e-5 * direction)
    torch.testing.assert_close(
        (ends[0] - ends[1]) / 2e-5, (derivative * direction).sum(), rtol=1e-6, atol=1e-7
    )


def test_r1_is_that_of_a_score_of_its_own_without_augmentation(small: MakeSettings) -> None:
    """The lazy R1 and the one that shares the update's scores are the same function."""
    trainer = randomized(build(small, *R3GAN, "augment=[]", arm="none"))
    real, fake = batch(), torch.zeros(8, 3, 32, 32)
    network = lambda x: trainer.score(x, real.labels)  # noqa: E731
    update = update_of(network, fake, real.images)._replace(batch=real, score=trainer.score)  # type: ignore[arg-type]
    shared, own = SharedPenalty("real", 2.0).penalty(update), R1(2.0, every=1).penalty(update)
    torch.testing.assert_close(shared, own)


def test_both_penalties_share_one_derivative(
    small: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(small, *R3GAN, arm="none")
    calls, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(a) or grad(*a, **k))
    logged = trainer.discriminator_step(batch(), batch().labels, 0)
    assert {"r1_loss", "r2_loss"} <= logged.keys()
    assert len(calls) == 1


def test_penalties_may_be_lazy(small: MakeSettings) -> None:
    trainer = build(small, *R3GAN, "regularize.r1_every=3", arm="none")
    logged = [trainer.discriminator_step(batch(), batch().labels, n) for n in range(4)]
    for name in ("r1_loss", "r2_loss"):
        assert [name in values for values in logged] == [True, False, False, True]
    assert trainer.regularizers["r2_loss"].every == 3


def test_weights_follow_their_schedules_on_the_device(small: MakeSettings) -> None:
    schedules = "{start: 2, end: 1, iterations: 2}", "{start: 0, end: 4, iterations: 4}"
    options = "regularize={{r1: {}, r2: {}, r1_every: 1}}".format(*schedules)
    trainer = build(small, *R3GAN, options, "train.d_steps=2", arm="none")
    seen = []
    for iteration in range(5):
        trainer.set_iteration(iteration)
        names = ("r1_loss", "r2_loss")
        seen.append([float(trainer.regularizers[name].weight_now) for name in names])
    assert [r1 for r1, _ in seen] == pytest.approx([2, 1.5, 1, 1, 1])
    quarter = (1 - 0.5**0.5) / 2
    assert [r2 for _, r2 in seen] == pytest.approx([0, 4 * quarter, 2, 4 - 4 * quarter, 4])
    assert trainer.discriminator_variant(0) == trainer.discriminator_variant(6)


def test_r2_alone_and_with_other_networks(small: MakeSettings) -> None:
    trainer = build(small, "regularize={r2: 1, r1_every: 1}", arm="none")
    logged = trainer.discriminator_step(batch(), batch().labels, 0)
    assert "r1_loss" not in logged
    assert logged["r2_loss"] > 0


def test_the_teacher_computes_without_a_graph(small: MakeSettings) -> None:
    trainer = build(small, *R3GAN, arm="whitening")
    assert trainer.distillation is not None
    teacher, seen = trainer.distillation.teacher, []
    teacher.register_forward_pre_hook(lambda module, args: seen.append(args[0].requires_grad))
    logged = trainer.discriminator_step(batch(), batch().labels, 0)
    assert seen == [False]
    assert {"distill_loss", "r1_loss", "r2_loss"} <= logged.keys()
