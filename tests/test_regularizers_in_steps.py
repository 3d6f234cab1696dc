"""Regularisers as terms of the discriminator's update."""

import torch

from gan_vkd.data.augment import Augmentations
from gan_vkd.game.regularization import flip_and_shift
from gan_vkd.game.trainer import Trainer
from tests.conftest import MakeSettings
from tests.test_gan import batch, build, changed, copy


def written_regularisers(gan: Trainer, seed: int) -> dict[str, torch.Tensor]:
    """Returns the terms that a step at `seed` adds to the hinge loss, by their formulas."""
    torch.manual_seed(seed)
    real, labels = batch().images, batch().labels
    with torch.no_grad():
        fake = gan.generator(torch.randn(8, gan.generator.z_dim), labels)
    sides = [Augmentations(["translation"])(side) for side in (fake, real)]
    twice = torch.cat([labels, labels])
    scores = gan.score(torch.cat(sides), twice)
    again = gan.score(torch.cat([flip_and_shift(side, False) for side in sides]), twice)
    asked = real.clone().requires_grad_()
    own = gan.score(Augmentations(["translation"])(asked), labels)
    (gradient,) = torch.autograd.grad(own.sum(), asked, create_graph=True)
    apart = (scores - again).square()
    return {
        "lecam_loss": 0.3 * (
            (scores[8:] - scores[:8].mean()).relu().square().mean()
            + (scores[8:].mean() - scores[:8]).relu().square().mean()
        ),
        "consistency_loss": 2.0 * (apart[:8].mean() + apart[8:].mean()),
        "r1_loss": 0.5 * 4 * gradient.flatten(1).square().sum(1).mean() / 2,
    }  # fmt: skip


def test_regularisers_match_their_formulas_in_the_step(small: MakeSettings) -> None:
    overrides = (
        "regularize={lecam: 0.3, lecam_start: 0, consistency: 2, r1: 0.5, r1_every: 4}",
        "augment=[translation]",
    )
    gan, other = build(small, *overrides), build(small, *overrides)
    expected = written_regularisers(other, seed=5)
    torch.manual_seed(5)
    found = gan.discriminator_step(batch(), batch().labels, 0)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    assert "distill_loss" in found
    assert "r1_loss" not in gan.discriminator_step(batch(), batch().labels, 3)
    assert "r1_loss" in gan.discriminator_step(batch(), batch().labels, 4)


def test_consistency_may_use_real_images_only_and_is_off_by_default(small: MakeSettings) -> None:
    gan = build(small, "regularize={consistency: 1, consistency_images: real}", arm="none")
    seen: list[int] = []
    gan.discriminator.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    assert "consistency_loss" in gan.discriminator_step(batch(), batch().labels, 0)
    assert seen == [16, 8]
    plain = build(small, arm="none").discriminator_step(batch(), batch().labels, 0)
    assert plain.keys() == {"d_loss", "real_score", "fake_score"}


def test_the_moving_averages_of_lecam_are_saved(small: MakeSettings) -> None:
    gan, other = (build(small, "regularize={lecam: 1}", arm="none") for _ in range(2))
    gan.discriminator_step(batch(), batch().labels, 0)
    other.load_state(gan.state())
    assert not changed(copy(gan.regularizers["lecam_loss"]), other.regularizers["lecam_loss"])
    assert int(other.regularizers["lecam_loss"].updates) == 1


def test_lecam_starts_at_its_iteration(small: MakeSettings) -> None:
    gan = build(small, "regularize={lecam: 1, lecam_start: 2}", "train.d_steps=3", arm="none")
    logged = [gan.discriminator_step(batch(), batch().labels, n)["lecam_loss"] for n in range(7)]
    assert [bool(loss) for loss in logged] == [False] * 6 + [True]
