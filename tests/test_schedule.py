"""Schedules in settings: learning rates, betas, the EMA decay and the weight of R1 over time."""

from typing import cast

import pytest
import yaml

from gan_vkd.game.gradient_penalties import R1
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.schedule import Schedule
from tests.conftest import MakeSettings
from tests.test_gan import batch, build

SCHEDULES = (
    "train.g_lr={start: 1e-3, end: 1e-4, iterations: 4}",
    "train.betas=[0, {start: 0.9, end: 0.99, iterations: 2}]",
    "train.ema_decay={start: 0, end: 0.5, iterations: 2}",
    "regularize={r1: {start: 2, end: 1, iterations: 2}, r1_every: 1}",
)


def test_schedules_may_be_set(small: MakeSettings) -> None:
    gan = build(small, *SCHEDULES, arm="none")
    seen = []
    for iteration in range(5):
        gan.set_iteration(iteration)
        (group,) = gan.g_optimizer.param_groups
        seen.append((float(group["lr"]), group["betas"][1], gan.ema.decay(iteration)))
    rates, betas, decays = zip(*seen, strict=True)
    quarter = (1 - 0.5**0.5) / 2  # of a cosine's way after a quarter of its iterations
    assert rates == pytest.approx(
        [1e-3, 1e-3 - quarter * 9e-4, 5.5e-4, 1e-4 + quarter * 9e-4, 1e-4]
    )
    assert betas == pytest.approx([0.9, 0.945, 0.99, 0.99, 0.99])
    assert decays == pytest.approx([0, 0.25, 0.5, 0.5, 0.5])
    r1, weights = cast(R1, gan.regularizers["r1_loss"]), []
    for iteration in range(4):
        gan.set_iteration(iteration)
        weights.append(float(r1.weight_now))
    assert weights == pytest.approx([2, 1.5, 1, 1])


def test_the_augmentation_follows_the_iterations_of_the_steps(small: MakeSettings) -> None:
    policy = "augment=[{name: cutout, p: {start: 1, end: 0, iterations: 2}}]"
    gan, given = build(small, policy, arm="none"), batch()
    (cutout,) = gan.augment.parts
    seen = []
    for number in range(0, 8, 2):
        gan.discriminator_step(given, given.labels, number)
        gan.generator_step(given.labels, number // 2)
        seen.append(float(cutout.now))
    assert seen == [1, 0.5, 0, 0]


def test_a_schedule_is_stored_and_read_again(small: MakeSettings) -> None:
    settings = small(*SCHEDULES, arm="none")
    again = type(settings).model_validate(yaml.safe_load(settings.dump()))
    assert again == settings
    assert again.train.g_lr == Schedule(start=1e-3, end=1e-4, iterations=4)


@pytest.mark.parametrize(
    "item",
    [
        "train.g_lr={start: 0, end: 1e-4, iterations: 4}",
        "train.g_lr={start: 1e-3, end: 1e-4, iterations: -1}",
        "train.d_lr={strt: 1e-3, end: 1e-4, iterations: 4}",
        "train.d_lr={start: 1e-3}",
        "train.d_lr=yes",
        "train.betas=[0, {start: 0.9, end: 1, iterations: 2}]",
        "train.ema_decay={start: .nan, end: 1, iterations: 2}",
        "regularize.r1={start: -1, end: 1, iterations: 2}",
        "regularize.r1=on",
    ],
)
def test_a_wrong_schedule_is_refused_in_one_line(item: str, small: MakeSettings) -> None:
    with pytest.raises(SettingsError, match=r"expected a number .*a schedule \{start") as error:
        small(item, arm="none")
    assert item.split("=")[0] in str(error.value)
    assert len(str(error.value).splitlines()) == 1
