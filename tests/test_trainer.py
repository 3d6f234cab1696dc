"""The trainer assembled from objects, without settings."""

import weakref

import pytest
import torch
from torch import Tensor, nn

from gan_vkd.data.augment import Augmentation, Augmentations
from gan_vkd.data.shape import Shape
from gan_vkd.distill import StudentFeature, Teacher, VkDLoss
from gan_vkd.game.adversary import ADVERSARIES, Adversary
from gan_vkd.game.distillation import Distillation, Pair
from gan_vkd.game.ema import EMA
from gan_vkd.game.gradient_penalties import R1
from gan_vkd.game.regularization import Consistency, Regularizer, Update
from gan_vkd.game.trainer import Trainer
from gan_vkd.networks.biggan import Discriminator, Generator
from gan_vkd.networks.interface import Discriminator as AnyDiscriminator
from gan_vkd.networks.interface import DiscriminatorOutput
from gan_vkd.networks.interface import Generator as AnyGenerator
from gan_vkd.runtime.schedule import Schedule
from tests.test_gan import batch, changed, copy


def networks() -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    return Generator(32, 2, 8, 10), Discriminator(32, 2, 10)


class Linear(nn.Module):
    """A linear network for teachers."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3 * 32 * 32, 16)

    def forward(self, images: Tensor) -> Tensor:
        return self.map(images.flatten(1))


def teacher() -> Teacher:
    return Teacher(Linear(), mean=[0.5] * 3, std=[0.5] * 3)


@pytest.mark.parametrize("name", ADVERSARIES)
def test_every_adversarial_loss_trains_all_networks(name: str) -> None:
    generator, discriminator = networks()
    known = teacher()
    feature = StudentFeature(discriminator.width, known.width, scaling="batch")
    loss = VkDLoss(feature.width, known.width, normalization="whitening")
    distillation = Distillation(known, [Pair(loss, feature)], weight="auto")
    trainer = Trainer(
        generator, discriminator, ADVERSARIES.make(name), Augmentations(["translation"]),
        distillation, [R1(1.0, every=1)],
    )  # fmt: skip
    before = [copy(module) for module in (generator, discriminator, distillation)]
    for number in range(2):
        logged = trainer.discriminator_step(batch(), batch().labels, number)
        logged |= trainer.generator_step(batch().labels, number, batch())
        assert all(value.isfinite() for value in logged.values())
    assert {"d_loss", "distill_loss", "r1_loss", "g_loss", "gradient_ratio"} <= logged.keys()
    for state, module in zip(before, (generator, discriminator, distillation), strict=True):
        assert changed(state, module)


def test_a_relative_adversary_gets_real_scores_in_the_generator_step() -> None:
    class Seen(Adversary):
        relative = True

        def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
            return (real - fake).mean()

        def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
            assert real is not None
            self.real, self.fake = real, fake
            return (real - fake).mean()

    adversary = Seen()
    trainer = Trainer(*networks(), adversary)
    trainer.discriminator.eval()
    trainer.generator_step(batch().labels, 0, batch())
    torch.testing.assert_close(adversary.real, trainer.score(batch().images, batch().labels))
    assert not adversary.real.requires_grad, "the real images' scores are constants"
    assert adversary.fake.requires_grad
    assert all(p.grad is None for p in trainer.discriminator.parameters())
    with pytest.raises(AssertionError, match="needs real images"):
        trainer.generator_step(batch().labels, 1)


class Shift(Augmentation):
    """Shifts images by the mean of the observed scores."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return images + self.mean

    def observe(self, real_scores: Tensor) -> None:
        assert not real_scores.requires_grad
        self.mean.add_(real_scores.mean())


def test_an_augmentation_observes_real_scores_and_is_in_the_checkpoint() -> None:
    first, second = (Trainer(*networks(), augment=Shift()) for _ in range(2))
    logged = first.discriminator_step(batch(), batch().labels, 0)
    assert first.augment.mean == logged["real_score"]
    assert first.augment.mean != 0
    second.load_state(first.state())
    assert second.augment.mean == first.augment.mean
    assert "augment.mean" in first.shared()


def test_schedules_set_learning_rates_and_betas() -> None:
    """Half a cosine: after a quarter of the iterations, (1 - cos 45 degrees) / 2 of the change."""
    trainer = Trainer(
        *networks(),
        g_lr=Schedule(end=1e-4, start=5e-4, iterations=4),
        d_lr=2e-4,
        betas=(0.0, Schedule(end=0.99, start=0.9, iterations=2)),
        d_steps=2,
    )

    def now() -> tuple[float, float, float]:
        (g,), (d,) = trainer.g_optimizer.param_groups, trainer.d_optimizer.param_groups
        return float(g["lr"]), float(d["lr"]), g["betas"][1]

    seen = []
    for iteration in range(6):
        for number in (2 * iteration, 2 * iteration + 1):
            trainer.discriminator_step(batch(), batch().labels, number)
        trainer.generator_step(batch().labels, iteration)
        seen.append(now())
    quarter = (1 - 0.5**0.5) / 2
    expected = [5e-4, 5e-4 - quarter * 4e-4, 3e-4, 1e-4 + quarter * 4e-4, 1e-4, 1e-4]
    assert [rate for rate, _, _ in seen] == pytest.approx(expected)
    assert [rate for _, rate, _ in seen] == pytest.approx([2e-4] * 6)
    assert [beta for _, _, beta in seen] == pytest.approx([0.9, 0.945, 0.99, 0.99, 0.99, 0.99])
    trainer.set_learning_rates(0.5)
    trainer.generator_step(batch().labels, 6)
    assert now()[:2] == pytest.approx((5e-5, 1e-4))


def test_distillation_may_be_left_out_of_updates() -> None:
    generator, discriminator = networks()
    known = teacher()
    feature = StudentFeature(discriminator.width, known.width)
    distillation = Distillation(
        known, [Pair(VkDLoss(feature.width, known.width), feature)], every=3
    )
    trainer = Trainer(generator, discriminator, distillation=distillation)
    for number in range(6):
        before = copy(distillation)
        logged = trainer.discriminator_step(batch(), batch().labels, number)
        assert ("distill_loss" in logged) == (number % 3 == 0)
        assert bool(changed(before, distillation)) == (number % 3 == 0)


def test_a_schedule_may_set_the_ema_decay() -> None:
    generator, _ = networks()
    ema = EMA(generator, Schedule(end=0.5, start=0.0, iterations=1), start=0)
    other = Generator(32, 2, 8, 10)
    first = copy(ema.generator)
    ema.update(other, 1)
    for name, value in ema.generator.state_dict().items():
        torch.testing.assert_close(value, (first[name] + other.state_dict()[name]) / 2)
    ema.update(generator, 0)
    assert not changed(copy(generator), ema.generator)


def test_a_penalty_may_follow_a_schedule() -> None:
    trainer, real = Trainer(*networks()), batch()
    trainer.discriminator.eval()
    scores, term = torch.zeros(8), R1(Schedule(end=1.0, start=3.0, iterations=2), every=4)
    found = []
    for iteration in range(4):
        update = Update(
            8, iteration, real, real.images, real.labels, scores, scores, trainer.augment,
            trainer.score,
        )  # fmt: skip
        term.set_iteration(iteration)
        penalty = term.penalty(update)
        assert penalty is not None
        found.append(float(penalty.detach()))
    assert [x / found[-1] for x in found] == pytest.approx([3, 2, 1, 1])
    assert term.penalty(update._replace(number=9)) is None


class Count(Regularizer):
    """Counts its calls; adds a penalty at every other update."""

    name = "count"
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def penalty(self, update: Update) -> Tensor | None:
        self.calls += 1
        assert update.images.shape == (16, 3, 32, 32)
        return None if update.number % 2 else update.real_score.square().mean()


def test_a_users_regulariser_is_added_when_due_and_saved() -> None:
    first, second = (Trainer(*networks(), regularizers=[Count()]) for _ in range(2))
    keys = [first.discriminator_step(batch(), batch().labels, n).keys() for n in range(2)]
    assert "count" in keys[0]
    assert "count" not in keys[1]
    second.load_state(first.state())
    assert second.regularizers["count"].calls == 2


class TinyGenerator(AnyGenerator):
    def __init__(self) -> None:
        super().__init__()
        self.shape, self.z_dim, self.classes = Shape(3, 32, 32), 4, 0
        self.map = nn.Linear(4, 3 * 32 * 32)

    def latents(self, count: int, device: object = "cpu", source: object = None) -> Tensor:
        return torch.rand(count, 4, generator=source) * 2 - 1  # type: ignore[call-overload]

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        assert (z.abs() <= 1).all()
        return self.map(z).tanh().unflatten(1, (3, 32, 32))


class TinyDiscriminator(AnyDiscriminator):
    def __init__(self) -> None:
        super().__init__()
        self.shape, self.classes, self.width = Shape(3, 32, 32), 0, 6
        self.body, self.head = nn.Linear(3 * 32 * 32, 6), nn.Linear(6, 1)

    def forward(self, images: Tensor, labels: Tensor) -> DiscriminatorOutput:
        features = self.body(images.flatten(1))
        return DiscriminatorOutput(self.head(features).squeeze(1), features)


def test_other_networks_need_only_the_interface() -> None:
    """Uniform latents and a discriminator without blocks, also distilled at an inner layer."""
    from gan_vkd.distill import Layer
    from gan_vkd.networks.sampling import draw_samples

    known = Teacher(
        Linear(), mean=[0.5] * 3, std=[0.5] * 3, layers=[Layer("map"), Layer("map")]
    )  # fmt: skip
    pairs = [
        Pair(VkDLoss(6, 16), StudentFeature(6, 16)),
        Pair(VkDLoss(6, 16), StudentFeature(6, 16), Layer("body"), weight=0.5),
    ]
    distillation = Distillation(known, pairs, weight=1.0)
    trainer = Trainer(TinyGenerator(), TinyDiscriminator(), distillation=distillation)
    logged = trainer.discriminator_step(batch(), batch().labels, 0)
    logged |= trainer.generator_step(batch().labels, 0)
    assert all(value.isfinite() for value in logged.values())
    assert draw_samples(trainer.ema.generator, [1.0], 5, 2, 0).shape == (5, 3, 32, 32)


def test_no_graph_outlives_an_iteration() -> None:
    """Neither that of a regulariser's forward nor that of the generator's step."""
    from gan_vkd.distill import Layer

    generator, discriminator = networks()
    pair = Pair(VkDLoss(8, 16), StudentFeature(8, 16), Layer("blocks.1.0"))
    distillation = Distillation(teacher(), [pair], weight=1.0)
    trainer = Trainer(
        generator, discriminator, None, None, distillation, [R1(1.0, every=1), Consistency(1.0)]
    )
    alive: list[weakref.ref[Tensor]] = []
    discriminator.get_submodule("blocks.1.0").register_forward_hook(
        lambda module, args, output: alive.append(weakref.ref(output))
    )
    logged = trainer.discriminator_step(batch(), batch().labels, 0)
    assert {"r1_loss", "consistency_loss"} <= logged.keys()
    trainer.generator_step(batch().labels, 0)
    del logged
    assert len(alive) == 4
    assert all(output() is None for output in alive)


def test_an_automatic_weight_needs_the_features_of_the_score() -> None:
    from gan_vkd.distill import Layer

    pair = Pair(VkDLoss(6, 16), StudentFeature(6, 16), Layer("body"))
    with pytest.raises(ValueError, match="features of the score"):
        Distillation(teacher(), [pair], weight="auto")
