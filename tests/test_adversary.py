"""Adversarial losses against their formulas and binary cross-entropy."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_vkd.game.adversary import ADVERSARIES, Hinge, NonSaturating, Relativistic

REAL = torch.tensor([-2.0, -0.5, 0.0, 1.5, 3.0])
FAKE = torch.tensor([1.0, -1.5, 0.5, 0.0, -3.0])


def test_the_hinge_loss_matches_its_formula() -> None:
    expected = sum(max(0, 1 - r) for r in REAL.tolist()) / 5
    expected += sum(max(0, 1 + f) for f in FAKE.tolist()) / 5
    assert float(Hinge().discriminator(REAL, FAKE)) == pytest.approx(expected)
    assert float(Hinge().generator(FAKE, None)) == pytest.approx(-float(FAKE.mean()))
    assert Hinge().discriminator(torch.ones(3), -torch.ones(3)) == 0


def cross_entropy(scores: Tensor, label: float) -> Tensor:
    return F.binary_cross_entropy(scores.sigmoid(), torch.full_like(scores, label))


def test_the_non_saturating_loss_is_binary_cross_entropy() -> None:
    adversary = NonSaturating()
    expected = cross_entropy(REAL, 1.0) + cross_entropy(FAKE, 0.0)
    torch.testing.assert_close(adversary.discriminator(REAL, FAKE), expected)
    torch.testing.assert_close(adversary.generator(FAKE, None), cross_entropy(FAKE, 1.0))


def test_the_relativistic_loss_is_cross_entropy_of_score_differences() -> None:
    adversary = Relativistic()
    torch.testing.assert_close(adversary.discriminator(REAL, FAKE), cross_entropy(REAL - FAKE, 1.0))
    torch.testing.assert_close(adversary.generator(FAKE, REAL), cross_entropy(FAKE - REAL, 1.0))
    assert torch.equal(adversary.generator(FAKE, REAL), adversary.discriminator(FAKE, REAL))


@pytest.mark.parametrize("name", ADVERSARIES)
def test_gradients_push_the_scores_in_the_right_direction(name: str) -> None:
    adversary = ADVERSARIES.make(name)
    real, fake = (0.1 * torch.randn(4)).requires_grad_(), (0.1 * torch.randn(4)).requires_grad_()
    adversary.discriminator(real, fake).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
    fake = fake.detach().requires_grad_()
    adversary.generator(fake, real.detach() if adversary.relative else None).backward()
    assert (fake.grad < 0).all()
    assert adversary.relative == (name == "relativistic")


@pytest.mark.parametrize("name", ADVERSARIES)
def test_large_scores_give_finite_losses(name: str) -> None:
    adversary, large = ADVERSARIES.make(name), torch.tensor([1e4, -1e4])
    assert adversary.discriminator(large, -large).isfinite()
    assert adversary.generator(large, -large).isfinite()
