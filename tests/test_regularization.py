"""Regularisers against loops over their formulas, and their gradients."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from gan_vkd.data.augment import Augmentations
from gan_vkd.game.adversary import Hinge
from gan_vkd.game.gradient_penalties import r1_penalty
from gan_vkd.game.regularization import LeCam, consistency, flip_and_shift
from gan_vkd.networks.biggan import Discriminator
from gan_vkd.networks.layers import SNConv2d, SNLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def score_batches(count: int, size: int = 5) -> list[tuple[Tensor, Tensor]]:
    """Returns real and fake scores that overlap, so that some are clipped and some are not."""
    return [(torch.randn(size) + 0.5, torch.randn(size) - 0.5) for _ in range(count)]


def discriminator() -> tuple[Discriminator, Tensor, Tensor]:
    """Returns a small discriminator with perturbed weights, images and labels."""
    network = Discriminator(32, 2, 3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    network.to(memory_format=torch.channels_last)
    return network, torch.rand(6, 3, 32, 32) * 2 - 1, torch.tensor([0, 1, 2, 0, 1, 2])


# LeCam


class Averages:
    """The moving averages as in the published code, as Python floats."""

    def __init__(self, decay: float, start: int) -> None:
        self.decay, self.start, self.calls = decay, start, 0
        self.real = self.fake = 1000.0

    def take(self, real: Tensor, fake: Tensor) -> float:
        decay = 0.0 if self.calls < self.start else self.decay
        self.fake = self.fake * decay + sum(fake.tolist()) / len(fake) * (1 - decay)
        self.real = self.real * decay + sum(real.tolist()) / len(real) * (1 - decay)
        self.calls += 1
        if self.calls <= self.start:
            return 0.0
        pulled = sum(max(s - self.fake, 0.0) ** 2 for s in real.tolist()) / len(real)
        return pulled + sum(max(self.real - s, 0.0) ** 2 for s in fake.tolist()) / len(fake)


@pytest.mark.parametrize("decay", [0.9, 0.99])
def test_lecam_matches_the_published_code(decay: float) -> None:
    lecam, written = LeCam(decay, start=4).double(), Averages(decay, start=4)
    penalties = []
    for real, fake in score_batches(40):
        real, fake = real.double(), fake.double()
        penalties.append(float(lecam(real, fake)))
        assert abs(penalties[-1] - written.take(real, fake)) < 1e-6
        assert abs(float(lecam.real_average) - written.real) < 1e-6
        assert abs(float(lecam.fake_average) - written.fake) < 1e-6
    assert penalties[:4] == [0.0] * 4
    assert min(penalties[4:]) > 0


def test_lecam_without_a_warm_up_starts_from_the_first_batch() -> None:
    lecam, ((real, fake),) = LeCam(0.99, start=0), score_batches(1)
    expected = F.relu(real - fake.mean()).square() + F.relu(real.mean() - fake).square()
    torch.testing.assert_close(lecam(real, fake), expected.mean())


def test_lecam_has_no_gradient_through_its_averages() -> None:
    """The gradient of the scores treats the averages as constants."""
    lecam = LeCam(0.5, start=2)
    for call, (real, fake) in enumerate(score_batches(4)):
        real.requires_grad_()
        fake.requires_grad_()
        lecam(real, fake).backward()
        assert real.grad is not None
        assert fake.grad is not None
        for score, slope in zip(real.tolist(), real.grad.tolist(), strict=True):
            expected = 2 * max(score - float(lecam.fake_average), 0) / 5
            assert abs(slope - (expected if call >= 2 else 0)) < 1e-6
        for score, slope in zip(fake.tolist(), fake.grad.tolist(), strict=True):
            expected = -2 * max(float(lecam.real_average) - score, 0) / 5
            assert abs(slope - (expected if call >= 2 else 0)) < 1e-6
    assert not any(buffer.requires_grad for buffer in lecam.buffers())
    assert not list(lecam.parameters())


def test_lecam_may_be_called_again_before_the_backward_pass() -> None:
    apart, together = LeCam(start=0), LeCam(start=0)
    batches = [(real.requires_grad_(), fake) for real, fake in score_batches(2)]
    sum(together(*scores) for scores in batches).backward()
    gradients = [real.grad for real, _ in batches]
    for (real, fake), expected in zip(batches, gradients, strict=True):
        found = torch.autograd.grad(apart(real, fake), real)[0]
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("before", [2, 7])  # within the warm-up and after it
def test_lecam_continues_from_its_state(before: int) -> None:
    first, second = LeCam(start=5), LeCam(start=5)
    batches = score_batches(12)
    for scores in batches[:before]:
        first(*scores)
    second.load_state_dict(first.state_dict())
    for scores in batches[before:]:
        assert torch.equal(first(*scores), second(*scores))


def test_lecam_keeps_float32_in_half_precision() -> None:
    lecam, reference = LeCam(0.99, start=0).half(), LeCam(0.99, start=0)
    for real, fake in score_batches(300):
        real, fake = real.bfloat16(), fake.bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            found = lecam(real, fake)
        assert found.dtype == torch.float32
        assert torch.equal(found, reference(real.float(), fake.float()))
    assert torch.equal(lecam.real_average, reference.real_average)


@pytest.mark.parametrize(("decay", "start"), [(-0.1, 0), (1.1, 0), (0.9, -1)])
def test_lecam_refuses_invalid_arguments(decay: float, start: int) -> None:
    with pytest.raises(ValueError, match="decay must be in"):
        LeCam(decay, start)


# consistency


def test_consistency_matches_its_formula_and_has_gradients_for_both_scores() -> None:
    scores, augmented = (torch.randn(7, requires_grad=True) for _ in range(2))
    found = consistency(scores, augmented)
    pairs = list(zip(scores.tolist(), augmented.tolist(), strict=True))
    assert abs(float(found.detach()) - sum((a - b) ** 2 for a, b in pairs) / 7) < 1e-6
    found.backward()
    expected = torch.tensor([2 * (a - b) / 7 for a, b in pairs])
    torch.testing.assert_close(scores.grad, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(augmented.grad, -expected, rtol=0, atol=1e-6)


def test_consistency_of_equal_scores_is_zero_and_is_computed_in_float32() -> None:
    scores = torch.randn(7)
    assert consistency(scores, scores.clone()) == 0
    a, b = scores.bfloat16(), torch.randn(7).bfloat16()
    assert torch.equal(consistency(a, b), consistency(a.float(), b.float()))


def reflected(index: int, length: int) -> int:
    return -index if index < 0 else 2 * (length - 1) - index if index >= length else index


def moved(image: Tensor, mirrored: bool, down: int, right: int) -> Tensor:
    """Flips, then shifts an image, pixel by pixel."""
    _, h, w = image.shape
    result = torch.empty_like(image)
    for row in range(h):
        for column in range(w):
            source = reflected(column - right, w)
            source = w - 1 - source if mirrored else source
            result[:, row, column] = image[:, reflected(row - down, h), source]
    return result


@pytest.mark.parametrize(("h", "w", "down", "right"), [(32, 32, 4, 4), (16, 24, 2, 3)])
@pytest.mark.parametrize("flip", [True, False])
def test_flip_and_shift_draws_all_flips_and_shifts_uniformly(
    h: int, w: int, down: int, right: int, flip: bool
) -> None:
    image = torch.rand(2, h, w)
    candidates = {
        moved(image, mirrored, d, r).numpy().tobytes(): (mirrored, d, r)
        for mirrored in ([False, True] if flip else [False])
        for d in range(-down, down + 1)
        for r in range(-right, right + 1)
    }
    kinds, draws = len(candidates), 3000
    outputs = flip_and_shift(image.expand(draws, -1, -1, -1), flip)
    found = [candidates[output.contiguous().numpy().tobytes()] for output in outputs]
    assert set(found) == set(candidates.values())
    assert kinds == (1 + flip) * (2 * down + 1) * (2 * right + 1)
    expected = draws / kinds
    for kind in candidates.values():  # the identity among them, six standard deviations
        assert abs(found.count(kind) - expected) < 6 * expected**0.5
    share = sum(mirrored for mirrored, _, _ in found) / draws
    assert abs(share - 0.5 * flip) < 6 * 0.5 / draws**0.5


def test_flip_and_shift_uses_the_global_generator_and_does_not_mix_samples() -> None:
    images = torch.rand(8, 3, 16, 16)
    torch.manual_seed(3)
    first = flip_and_shift(images)
    torch.manual_seed(3)
    assert torch.equal(first, flip_and_shift(images))
    assert not torch.equal(first, flip_and_shift(images))
    for output, image in zip(first, images, strict=True):
        assert set(output.flatten().tolist()) <= set(image.flatten().tolist())


def test_flip_and_shift_is_differentiable() -> None:
    def run(images: Tensor) -> Tensor:
        torch.manual_seed(3)
        return flip_and_shift(images)

    images = torch.rand(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, images)
    assert torch.autograd.gradgradcheck(run, images)


# R1


def test_r1_matches_closed_forms() -> None:
    """The gradient of w.x is w, the gradient of x.A x / 2 + w.x is (A + A^T) x / 2 + w."""
    images = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    a, w = torch.randn(12, 12, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    x = images.flatten(1)
    found = float(r1_penalty(x @ w, images).detach())
    assert abs(found - sum(value**2 for value in w.tolist()) / 2) < 1e-6

    found = float(r1_penalty(((x @ a) * x).sum(1) / 2 + x @ w, images).detach())
    total = 0.0
    for sample in x.detach():
        for k in range(12):
            slope = sum(float((a[k, j] + a[j, k]) * sample[j]) / 2 for j in range(12)) + float(w[k])
            total += slope**2 / 2 / 4
    assert abs(found - total) < 1e-6


class Smooth(nn.Module):
    """A discriminator with spectral norm that is smooth enough for finite differences."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = SNConv2d(2, 3), SNLinear(3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.conv(images).tanh().sum((2, 3)).tanh()).squeeze(1)


def test_r1_has_the_correct_gradient_for_the_parameters() -> None:
    network = Smooth().double()
    images = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    for _ in range(500):  # converge the singular vectors, which the gradient treats as constants
        network(images)
    network.eval()
    names, values = zip(*network.named_parameters(), strict=True)

    def penalty(*parameters: Tensor) -> Tensor:
        x = images.clone().requires_grad_()
        named = dict(zip(names, parameters, strict=True))
        return r1_penalty(functional_call(network, named, (x,)), x)

    assert torch.autograd.gradcheck(penalty, values)


def test_r1_differentiates_through_the_augmentation() -> None:
    """With D(x) = w.x, a pixel's slope is the score of the augmented unit image."""
    w = torch.randn(3, 8, 8, dtype=torch.float64)

    def scores(images: Tensor) -> Tensor:
        torch.manual_seed(5)
        return (Augmentations(["translation", "cutout"])(images) * w).sum((1, 2, 3))

    images = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    slopes = [float(scores(unit.view(1, 3, 8, 8))) for unit in torch.eye(192).double()]
    assert 0 in slopes
    expected = sum(slope**2 for slope in slopes) / 2
    assert abs(float(r1_penalty(scores(images), images).detach()) - expected) < 1e-6


def test_r1_is_the_mean_over_images() -> None:
    network, images, labels = discriminator()
    network.eval()
    images.requires_grad_()
    together = r1_penalty(network(images, labels).score, images)
    alone = []
    for image, label in zip(images.detach(), labels, strict=True):
        x = image[None].requires_grad_()
        alone.append(r1_penalty(network(x, label[None]).score, x))
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_r1_refuses_images_without_a_gradient() -> None:
    network, images, labels = discriminator()
    with pytest.raises(RuntimeError, match="require"):
        r1_penalty(network(images, labels).score, images)


def test_gradient_descent_lowers_r1() -> None:
    network, images, labels = discriminator()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    policy, penalties = Augmentations(["color", "translation", "cutout"]), []
    for _ in range(40):
        x = images.clone().requires_grad_()
        penalty = r1_penalty(network(policy(x), labels).score, x)
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        penalties.append(float(penalty.detach()))
    assert sum(penalties[-5:]) < 0.2 * sum(penalties[:5])


# in the discriminator


def lecam_loss(network: Discriminator, images: Tensor, labels: Tensor) -> Tensor:
    return LeCam(start=0)(*network(images, labels).score.chunk(2))


def consistency_loss(network: Discriminator, images: Tensor, labels: Tensor) -> Tensor:
    moved = network(flip_and_shift(images), labels)
    return consistency(network(images, labels).score, moved.score)


def r1_loss(network: Discriminator, images: Tensor, labels: Tensor) -> Tensor:
    clean = images.requires_grad_()
    return r1_penalty(network(Augmentations(["translation", "cutout"])(clean), labels).score, clean)


Penalty = Callable[[Discriminator, Tensor, Tensor], Tensor]


@pytest.mark.parametrize("loss", [lecam_loss, consistency_loss, r1_loss])
def test_each_regulariser_has_a_gradient_for_every_weight(loss: Penalty) -> None:
    network, images, labels = discriminator()
    loss(network, images, labels).backward()
    for name, parameter in network.named_parameters():
        slope = torch.zeros(()) if parameter.grad is None else parameter.grad
        assert torch.isfinite(slope).all()
        # the last bias cancels in a difference; no bias changes a piecewise linear slope
        idle = {consistency_loss: "linear.bias", r1_loss: "bias"}.get(loss)
        assert slope.any() != (idle is not None and name.endswith(idle)), name


@pytest.mark.parametrize("loss", [lecam_loss, consistency_loss, r1_loss])
def test_each_regulariser_is_float32_in_mixed_precision(loss: Penalty) -> None:
    network, images, labels = discriminator()
    network.eval()
    torch.manual_seed(1)
    expected = loss(network, images, labels)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.float16):
        found = loss(network, images, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.1, atol=1e-4)


@pytest.mark.parametrize("loss", [lecam_loss, consistency_loss, r1_loss])
def test_regularisers_do_not_synchronise_with_the_device(loss: Penalty) -> None:
    """A meta tensor has no values, so reading one raises."""
    with torch.device("meta"):
        network, images = Discriminator(32, 2, 3), torch.rand(6, 3, 32, 32)
        labels = torch.zeros(6, dtype=torch.int64)
        assert loss(network, images, labels).shape == ()


def test_all_regularisers_together_in_one_step() -> None:
    network, images, labels = discriminator()
    lecam, optimizer = LeCam(start=0), torch.optim.Adam(network.parameters(), 1e-3)
    fake, real = images.chunk(2)
    for step in range(3):
        real = real.detach().requires_grad_(step % 2 == 0)
        seen = Augmentations(["translation", "cutout"])(torch.cat([fake, real]))
        fake_score, real_score = network(seen, labels).score.chunk(2)
        fake_again, real_again = network(flip_and_shift(seen), labels).score.chunk(2)
        loss = Hinge().discriminator(real_score, fake_score)
        loss = loss + 0.3 * lecam(real_score, fake_score)
        loss = loss + 10 * consistency(real_score, real_again)
        loss = loss + 10 * consistency(fake_score, fake_again)
        if real.requires_grad:
            loss = loss + 2 * 0.01 * r1_penalty(real_score, real)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert all(torch.isfinite(p).all() for p in network.parameters())
