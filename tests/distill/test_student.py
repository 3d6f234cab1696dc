"""The student feature that is distilled, and the similarities that each choice preserves."""

import pytest
import torch
from torch import Tensor, nn

from gan_vkd.distill import StudentFeature, VkDLoss, retract

WIDTH, TEACHER = 12, 20


def features(count: int = 40, seed: int = 0) -> Tensor:
    """Returns features like rectified sums: non-negative, with a mean that dominates the norm."""
    source = torch.Generator().manual_seed(seed)
    return 10 + 3 * torch.randn(count, WIDTH, generator=source).clamp_min(-3)


def scaled(z: Tensor, **options: object) -> Tensor:
    torch.manual_seed(0)
    return StudentFeature(WIDTH, TEACHER, **options)(z)[1].detach()  # type: ignore[arg-type]


def products(z: Tensor) -> Tensor:
    return z @ z.T


def test_the_pooled_feature_is_unchanged() -> None:
    z = features()
    assert torch.equal(scaled(z), z)


def test_the_mean_keeps_inner_products_up_to_one_factor() -> None:
    z = features()
    torch.testing.assert_close(
        products(scaled(z, feature="mean", positions=64)) * 64**2, products(z)
    )


def test_batch_scaling_keeps_centred_inner_products_up_to_one_factor() -> None:
    """Distances are kept too; the mean variance of the dimensions becomes one."""
    z, ours = features(), scaled(features(), scaling="batch")
    centred = z - z.mean(0)
    factor = centred.square().mean()
    torch.testing.assert_close(products(ours) * factor, products(centred), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours.mean(0), torch.zeros(WIDTH), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.square().mean(), torch.tensor(1.0), rtol=1e-4, atol=0)


def test_batch_scaling_is_invariant_to_scale_and_shift() -> None:
    """Its loss cannot be lowered by shrinking z: the gradient has no part along z - mean."""
    z = features().requires_grad_()
    torch.manual_seed(0)
    feature = StudentFeature(WIDTH, TEACHER, scaling="batch")
    loss = VkDLoss(WIDTH, TEACHER, normalization="layer_norm")
    loss(feature(z)[1], torch.randn(40, TEACHER)).backward()
    assert z.grad is not None
    along = (z.grad * (z - z.mean(0))).sum()
    assert abs(along) < 1e-4 * z.grad.norm() * z.norm()
    assert z.grad.sum(0).abs().max() < 1e-5
    torch.testing.assert_close(
        scaled(7 * features() + 3, scaling="batch"), scaled(features(), scaling="batch"),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def test_batch_scaling_uses_running_averages_in_eval_mode() -> None:
    torch.manual_seed(0)
    feature = StudentFeature(WIDTH, TEACHER, scaling="batch")
    mean, variance = torch.zeros(WIDTH), torch.ones(())
    for seed in range(3):
        z = features(seed=seed)
        feature(z)
        mean = 0.9 * mean + 0.1 * z.mean(0)
        variance = 0.9 * variance + 0.1 * (z - z.mean(0)).square().mean()
    feature.eval()
    z = features(1, seed=5)
    torch.testing.assert_close(feature(z)[1], (z - mean) / (variance + 1e-5).sqrt())
    torch.testing.assert_close(feature(z)[1], feature(z)[1], rtol=0, atol=0)


def test_learnt_scaling_starts_as_the_identity_with_one_scale_and_a_bias() -> None:
    feature = StudentFeature(WIDTH, TEACHER, scaling="learnt")
    z = features()
    assert torch.equal(feature(z)[1], z)
    assert sorted(p.numel() for p in feature.parameters()) == [1, WIDTH]
    with torch.no_grad():
        feature.scaling.scale.fill_(0.5)
        feature.scaling.bias.fill_(2.0)
    torch.testing.assert_close(feature(z)[1], 0.5 * z + 2)


@pytest.mark.parametrize("name", ["head", "plain_head"])
def test_a_head_is_a_linear_map_to_the_teachers_width(name: str) -> None:
    feature, z = StudentFeature(WIDTH, TEACHER, feature=name), features()
    for _ in range(200):  # one power iteration each
        feature(z)
    feature.eval()
    read, ours = feature(z)
    assert ours.shape == (40, TEACHER) == (40, feature.width)
    assert torch.equal(read, ours)
    middle = feature((z[:20] + z[20:]) / 2)[1]
    torch.testing.assert_close(middle, (ours[:20] + ours[20:]) / 2, rtol=1e-4, atol=1e-4)
    if name == "head":
        weights = [layer.weight for layer in feature.head.layers]
        norms = torch.stack([torch.linalg.matrix_norm(w, 2) for w in weights])
        torch.testing.assert_close(norms, torch.ones(2), rtol=1e-3, atol=0)


def test_the_feature_for_logging_is_not_scaled() -> None:
    torch.manual_seed(0)
    feature = StudentFeature(WIDTH, TEACHER, feature="mean", positions=4, scaling="batch")
    read, ours = feature(features())
    torch.testing.assert_close(read, features() / 4)
    assert not torch.allclose(read, ours)


def test_scaling_computes_in_float32_under_autocast_and_in_half_models() -> None:
    z = features().bfloat16()
    for options in ({"feature": "head"}, {"scaling": "batch"}, {"scaling": "learnt"}):
        torch.manual_seed(0)
        feature: nn.Module = StudentFeature(WIDTH, TEACHER, **options).eval()  # type: ignore[arg-type]
        plain = feature(z.float())[1]
        with torch.autocast("cpu", torch.bfloat16):
            lowered = feature(z)[1]
        assert lowered.dtype == torch.float32
        assert torch.equal(lowered, plain)


def test_batch_scaling_keeps_features_from_shrinking() -> None:
    """A linear student after 300 steps towards a random target: with scaling it keeps its norm,
    without it shrinks to zero, since an orthogonal projection can neither shift nor rescale."""
    source = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 8, generator=source)
    target = torch.randn(64, TEACHER, generator=source)
    sizes = {}
    for scaling in ("none", "batch"):
        torch.manual_seed(0)
        student = nn.Linear(8, WIDTH)
        with torch.no_grad():
            student.weight.mul_(10)
        feature = StudentFeature(WIDTH, TEACHER, scaling=scaling)
        loss = VkDLoss(WIDTH, TEACHER, normalization="none")
        before = student(inputs).detach().norm(dim=1).mean()
        optimizer = torch.optim.Adam([*student.parameters(), *loss.parameters()], 0.05)
        for _ in range(300):
            optimizer.zero_grad()
            loss(feature(student(inputs))[1], target).backward()
            optimizer.step()
            retract(loss)
        sizes[scaling] = float(student(inputs).detach().norm(dim=1).mean() / before)
    assert sizes["none"] < 0.2
    assert 0.5 < sizes["batch"] < 3
