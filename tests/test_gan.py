import torch
import torch.nn.functional as F

from gan_vkd.augment import augment
from gan_vkd.gan import GAN
from gan_vkd.teachers import load_teacher
from tests.conftest import MakeSettings


def build(make: MakeSettings, *overrides: str, arm: str = "whitening") -> GAN:
    settings = make(*overrides, arm=arm)
    teacher = load_teacher(settings.distill.teacher, 32, "cpu") if settings.distill else None
    torch.manual_seed(0)
    return GAN(settings, 10, "cpu", teacher)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    images = torch.rand(8, 3, 32, 32, generator=source) * 2 - 1
    return images, torch.randint(10, (8,), generator=source)


def copy(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], module: torch.nn.Module) -> set[str]:
    now = module.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, now[name])}


def test_each_step_trains_its_own_networks(small: MakeSettings) -> None:
    gan = build(small)
    assert gan.distillation is not None
    generator, discriminator = copy(gan.generator), copy(gan.discriminator)
    distillation, teacher = copy(gan.distillation), copy(gan.distillation._teacher[0])
    gan.discriminator_step(*batch(), batch()[1])
    weights = {name for name, _ in gan.discriminator.named_parameters()}
    # fake and real scores share the last bias: its hinge gradients cancel at initialisation
    assert changed(discriminator, gan.discriminator) >= weights - {"linear.bias"}
    assert changed(distillation, gan.distillation)
    assert changed(generator, gan.generator) <= {n for n, _ in gan.generator.named_buffers()}

    discriminator, distillation = copy(gan.discriminator), copy(gan.distillation)
    gan.generator_step(batch()[1], iteration=0)
    assert changed(generator, gan.generator) >= {n for n, _ in gan.generator.named_parameters()}
    assert not changed(discriminator, gan.discriminator) & weights
    assert not changed(distillation, gan.distillation)
    assert not changed(teacher, gan.distillation._teacher[0])
    assert all(p.requires_grad for p in gan.discriminator.parameters())


def test_the_average_is_a_copy_before_its_start_and_exponential_after(small: MakeSettings) -> None:
    gan = build(small, "train.ema_decay=0.75", "train.ema_start=2")
    labels = batch()[1]
    for iteration in (0, 1):
        gan.generator_step(labels, iteration)
        assert not changed(copy(gan.generator), gan.average)
    before = copy(gan.average)
    gan.generator_step(labels, 2)
    for name, value in gan.average.state_dict().items():
        expected = 0.75 * before[name] + 0.25 * gan.generator.state_dict()[name]
        torch.testing.assert_close(value, expected)


def test_the_distillation_is_the_published_formula(small: MakeSettings) -> None:
    """weight * mean (Zs P^T - layernorm(Zt))^2 over fake and real, on what D itself sees."""
    gan = build(small, arm="layernorm")
    assert gan.distillation is not None
    images, _ = batch()
    features = torch.randn(8, gan.discriminator.width)
    teacher = gan.distillation._teacher[0]
    p = gan.distillation.method.project.matrix()
    total = 0.0
    for z, image in zip(features, images, strict=True):
        target = teacher(image[None])[0]
        target = (target - target.mean()) / (target.var(unbiased=False) + 1e-5).sqrt()
        total += float((p @ z - target).detach().square().mean()) / len(images)
    loss = gan.distillation(features, images, clean=torch.zeros_like(images))
    torch.testing.assert_close(float(loss), 10.0 * total, rtol=1e-4, atol=0)


def test_which_images_are_distilled_and_in_which_view(small: MakeSettings) -> None:
    images, _ = batch()
    for part, rows in {"both": range(8), "fake": range(4), "real": range(4, 8)}.items():
        for view in ("augmented", "clean"):
            gan = build(small, f"distill.images={part}", f"distill.view={view}", arm="layernorm")
            assert gan.distillation is not None
            features = torch.randn(8, gan.discriminator.width, requires_grad=True)
            other = torch.zeros_like(images)
            pair = (images, other) if view == "augmented" else (other, images)
            loss = gan.distillation(features, *pair)
            loss.backward()
            assert features.grad is not None
            reached = features.grad.abs().sum(1).nonzero().squeeze(1).tolist()
            assert reached == list(rows)
            target = F.layer_norm(gan.distillation._teacher[0](images[list(rows)]), (64,))
            projected = gan.distillation.method.project(features[list(rows)])
            torch.testing.assert_close(loss, 10 * F.mse_loss(projected, target))


def test_the_hinge_step_follows_the_gradient_of_the_written_loss(small: MakeSettings) -> None:
    gan = build(small, arm="none")
    images, labels = batch()
    torch.manual_seed(5)
    gan.discriminator_step(images, labels, labels)
    taken = {name: p.grad.clone() for name, p in gan.discriminator.named_parameters()}

    again = build(small, arm="none")
    torch.manual_seed(5)
    with torch.no_grad():
        fake = again.generator(torch.randn(8, again.generator.z_dim), labels)
    seen = augment(torch.cat([fake, images]), again.settings.augment)
    scores, _ = again.discriminator(seen, torch.cat([labels, labels]))
    loss = sum((1 + s).clamp_min(0) / 8 for s in scores[:8])
    loss = loss + sum((1 - s).clamp_min(0) / 8 for s in scores[8:])
    loss.backward()
    for name, p in again.discriminator.named_parameters():
        torch.testing.assert_close(p.grad, taken[name], rtol=1e-4, atol=1e-6)


def test_state_round_trips(small: MakeSettings) -> None:
    gan, other = build(small), build(small, "seed=1")
    images, labels = batch()
    gan.discriminator_step(images, labels, labels)
    gan.generator_step(labels, 0)
    other.load_state(gan.state())
    torch.manual_seed(7)
    expected = gan.discriminator_step(images, labels, labels)
    torch.manual_seed(7)
    found = other.discriminator_step(images, labels, labels)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
