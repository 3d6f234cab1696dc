"""The gradient of the distillation loss relative to the adversarial one, at the features z."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_vkd.game.balance import balance
from gan_vkd.game.settings import DistillSettings, PairSettings
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.teachers.settings import NetworkSettings
from tests.conftest import MakeSettings
from tests.test_gan import batch, build


def settings(**options: object) -> DistillSettings:
    return DistillSettings(teacher=NetworkSettings(name="cifar_resnet20"), **options)  # type: ignore


def features_and_losses() -> tuple[Tensor, Tensor, Tensor]:
    """Returns features and two losses computed from them, adversarial and distillation."""
    source = torch.Generator().manual_seed(0)
    z = torch.randn(6, 5, generator=source).requires_grad_()
    adversarial = (z @ torch.randn(5, generator=source)).square().mean()
    return z, adversarial, 3 * z.cos().sum()


def gradient(loss: Tensor, z: Tensor) -> Tensor:
    return torch.autograd.grad(loss, z, retain_graph=True)[0]


@pytest.mark.parametrize("ratio", [0.1, 1.0, 3.0])
def test_the_automatic_weight_keeps_the_ratio_of_gradients(ratio: float) -> None:
    z, adversarial, distillation = features_and_losses()
    weight, logged = balance(z, adversarial, distillation, weight="auto", gradient_ratio=ratio)
    assert not weight.requires_grad
    measured = gradient(weight * distillation, z).norm() / gradient(adversarial, z).norm()
    torch.testing.assert_close(measured, torch.tensor(ratio))
    torch.testing.assert_close(logged["gradient_ratio"], torch.tensor(ratio))
    assert logged["distill_weight"] == weight


def test_a_fixed_weight_is_kept_and_its_gradient_ratio_logged() -> None:
    z, adversarial, distillation = features_and_losses()
    weight, logged = balance(z, adversarial, distillation, weight=2.0)
    assert weight == 2.0
    ours, theirs = gradient(2 * distillation, z), gradient(adversarial, z)
    torch.testing.assert_close(logged["gradient_ratio"], ours.norm() / theirs.norm())
    cosine = (ours * theirs).sum() / ours.norm() / theirs.norm()
    torch.testing.assert_close(logged["gradient_cosine"], cosine)


def test_norm_spread_and_rank_of_the_features_are_logged() -> None:
    z, adversarial, distillation = features_and_losses()
    logged = balance(z, adversarial, distillation, 10.0)[1]
    spread = z.detach() - z.detach().mean(0)
    values = torch.linalg.eigvalsh(spread.double().T @ spread.double())
    rank = values.sum() ** 2 / values.square().sum()
    torch.testing.assert_close(logged["z_rank"].double(), rank, rtol=1e-5, atol=0)
    torch.testing.assert_close(logged["z_norm"], z.detach().norm(dim=1).mean())
    share = spread.square().sum() / z.detach().square().sum()
    torch.testing.assert_close(logged["z_centred"], share)


def test_zero_gradients_give_weight_zero_and_finite_values() -> None:
    """Hinge losses have no gradient once every score is beyond its margin."""
    z, adversarial, distillation = features_and_losses()
    for losses in ((0 * adversarial, distillation), (adversarial, 0 * distillation)):
        weight, logged = balance(z, *losses, weight="auto")
        assert weight == 0
        assert all(value.isfinite() for value in logged.values())


def test_the_weight_is_bounded() -> None:
    z, adversarial, distillation = features_and_losses()
    weight, _ = balance(z, 1e9 * adversarial, distillation, "auto")
    assert weight == 1e4


def test_an_automatic_weight_needs_the_pooled_features() -> None:
    pairs = [PairSettings.model_validate({"student": {"layer": "blocks.1"}})]
    with pytest.raises(ValueError, match="features of the score"):
        settings(weight="auto", pairs=pairs)
    weight, logged = balance(None, torch.ones(()), torch.ones(()), 3.0)
    assert weight == 3
    assert logged == {}


def test_a_gradient_ratio_with_a_fixed_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="gradient_ratio belongs to weight = auto"):
        settings(weight=1.0, gradient_ratio=0.5)


def test_the_discriminator_step_uses_the_automatic_weight(small: MakeSettings) -> None:
    """D's gradient is that of the weighted sum, with the weight from the ratio of norms at z."""
    chosen = ["distill.weight=auto", "distill.gradient_ratio=0.5", "distill.student.scaling=batch"]
    gan, again = (build(small, *chosen, arm="layernorm") for _ in range(2))
    labels = batch().labels
    torch.manual_seed(5)
    logged = gan.discriminator_step(batch(), labels, 0)
    torch.testing.assert_close(logged["gradient_ratio"], torch.tensor(0.5))

    torch.manual_seed(5)
    with torch.no_grad():
        fake = again.generator(torch.randn(8, again.generator.z_dim), labels)
    seen = torch.cat([again.augment(side) for side in (fake, batch().images)])
    scores, z = again.discriminate(seen, torch.cat([labels, labels]))
    adversarial = F.relu(1 + scores[:8]).mean() + F.relu(1 - scores[8:]).mean()
    centred = z - z.mean(0)
    ours = centred / (centred.square().mean() + 1e-5).sqrt()
    assert again.distillation is not None
    p = again.distillation.method.methods[0].project.matrix()
    target = F.layer_norm(again.distillation.teacher(seen), (64,))
    distance = F.mse_loss(ours @ p.T, target)
    weight = 0.5 * gradient(adversarial, z).norm() / gradient(distance, z).norm()
    (adversarial + weight.detach() * distance).backward()
    taken = dict(gan.discriminator.named_parameters())
    for name, parameter in again.discriminator.named_parameters():
        torch.testing.assert_close(parameter.grad, taken[name].grad, rtol=1e-3, atol=1e-5)


def test_an_invalid_weight_is_refused(small: MakeSettings) -> None:
    with pytest.raises(SettingsError, match=r"distill\.weight"):
        small("distill.weight=much")
