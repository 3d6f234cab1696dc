"""The strength of the distillation beside the game, at the features where both meet."""

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


def meeting() -> tuple[Tensor, Tensor, Tensor]:
    """Features that both losses read, and the two losses."""
    source = torch.Generator().manual_seed(0)
    z = torch.randn(6, 5, generator=source).requires_grad_()
    game = (z @ torch.randn(5, generator=source)).square().mean()
    return z, game, 3 * z.cos().sum()


def gradient(loss: Tensor, z: Tensor) -> Tensor:
    return torch.autograd.grad(loss, z, retain_graph=True)[0]


@pytest.mark.parametrize("ratio", [0.1, 1.0, 3.0])
def test_the_automatic_weight_keeps_the_ratio_of_gradients(ratio: float) -> None:
    z, game, distillation = meeting()
    weight, told = balance(z, game, distillation, weight="auto", gradient_ratio=ratio)
    assert not weight.requires_grad
    measured = gradient(weight * distillation, z).norm() / gradient(game, z).norm()
    torch.testing.assert_close(measured, torch.tensor(ratio))
    torch.testing.assert_close(told["gradient_ratio"], torch.tensor(ratio))
    assert told["distill_weight"] == weight


def test_a_given_weight_is_left_and_its_ratio_told() -> None:
    z, game, distillation = meeting()
    weight, told = balance(z, game, distillation, weight=2.0)
    assert weight == 2.0
    ours, theirs = gradient(2 * distillation, z), gradient(game, z)
    torch.testing.assert_close(told["gradient_ratio"], ours.norm() / theirs.norm())
    cosine = (ours * theirs).sum() / ours.norm() / theirs.norm()
    torch.testing.assert_close(told["gradient_cosine"], cosine)


def test_what_is_told_of_the_features_is_their_spread() -> None:
    z, game, distillation = meeting()
    told = balance(z, game, distillation, 10.0)[1]
    spread = z.detach() - z.detach().mean(0)
    values = torch.linalg.eigvalsh(spread.double().T @ spread.double())
    rank = values.sum() ** 2 / values.square().sum()
    torch.testing.assert_close(told["z_rank"].double(), rank, rtol=1e-5, atol=0)
    torch.testing.assert_close(told["z_norm"], z.detach().norm(dim=1).mean())
    share = spread.square().sum() / z.detach().square().sum()
    torch.testing.assert_close(told["z_centred"], share)


def test_a_game_or_a_distillation_without_a_gradient_is_finite() -> None:
    """Hinge losses have none once every score is beyond its margin."""
    z, game, distillation = meeting()
    for losses in ((0 * game, distillation), (game, 0 * distillation)):
        weight, told = balance(z, *losses, weight="auto")
        assert weight == 0
        assert all(value.isfinite() for value in told.values())


def test_the_weight_is_bounded() -> None:
    z, game, distillation = meeting()
    weight, _ = balance(z, 1e9 * game, distillation, "auto")
    assert weight == 1e4


def test_another_layer_alone_has_no_automatic_weight() -> None:
    pairs = [PairSettings.model_validate({"student": {"layer": "blocks.1"}})]
    with pytest.raises(ValueError, match="where its score is taken"):
        settings(weight="auto", pairs=pairs)
    weight, told = balance(None, torch.ones(()), torch.ones(()), 3.0)
    assert weight == 3
    assert told == {}


def test_a_ratio_beside_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="gradient_ratio belongs to weight = auto"):
        settings(weight=1.0, gradient_ratio=0.5)


def test_the_step_takes_the_automatic_weight(small: MakeSettings) -> None:
    """The gradient of D is that of the written sum, whose weight is the ratio of norms at z."""
    chosen = ["distill.weight=auto", "distill.gradient_ratio=0.5", "distill.student.scaling=batch"]
    gan, again = (build(small, *chosen, arm="layernorm") for _ in range(2))
    labels = batch().labels
    torch.manual_seed(5)
    told = gan.discriminator_step(batch(), labels, 0)
    torch.testing.assert_close(told["gradient_ratio"], torch.tensor(0.5))

    torch.manual_seed(5)
    with torch.no_grad():
        fake = again.generator(torch.randn(8, again.generator.z_dim), labels)
    seen = torch.cat([again.augment(side) for side in (fake, batch().images)])
    scores, z = again.judge(seen, torch.cat([labels, labels]))
    game = F.relu(1 + scores[:8]).mean() + F.relu(1 - scores[8:]).mean()
    centred = z - z.mean(0)
    ours = centred / (centred.square().mean() + 1e-5).sqrt()
    assert again.distillation is not None
    p = again.distillation.method.methods[0].project.matrix()
    target = F.layer_norm(again.distillation.teacher(seen), (64,))
    distance = F.mse_loss(ours @ p.T, target)
    weight = 0.5 * gradient(game, z).norm() / gradient(distance, z).norm()
    (game + weight.detach() * distance).backward()
    taken = dict(gan.discriminator.named_parameters())
    for name, parameter in again.discriminator.named_parameters():
        torch.testing.assert_close(parameter.grad, taken[name].grad, rtol=1e-3, atol=1e-5)


def test_bad_values_are_one_line(small: MakeSettings) -> None:
    with pytest.raises(SettingsError, match=r"distill\.weight"):
        small("distill.weight=much")
