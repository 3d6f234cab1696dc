"""Schedules in settings: learning rates, betas, the EMA decay and the weight of R1 over time."""

from typing import cast

import pytest
import yaml

from gan_vkd.game.ema import HalfLife
from gan_vkd.game.gradient_penalties import R1
from gan_vkd.game.settings import load_settings
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.schedule import Schedule
from tests.conftest import CONFIGS, MakeSettings
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


def test_schedules_over_auto_iterations_are_as_long_as_the_run(small: MakeSettings) -> None:
    """Wherever a schedule may be: rates, betas, the EMA, penalties and augmentations."""
    auto = [item.replace("iterations: 4", "iterations: auto") for item in SCHEDULES]
    auto = [item.replace("iterations: 2", "iterations: auto") for item in auto]
    fade = "augment=[{name: cutout, p: {start: 1, end: 0, iterations: auto}}]"
    gan = build(small, *auto, fade, "train.iterations=8", arm="none")
    (cutout,) = gan.augment.parts
    r1 = cast(R1, gan.regularizers["r1_loss"])
    ends = {0: (1e-3, 0.9, 0, 2, 1), 4: (5.5e-4, 0.945, 0.25, 1.5, 0.5), 8: (1e-4, 0.99, 0.5, 1, 0)}
    for iteration, values in ends.items():
        gan.set_iteration(iteration)
        (group,) = gan.g_optimizer.param_groups
        rates = float(group["lr"]), group["betas"][1], gan.ema.decay(iteration)
        assert (*rates, float(r1.weight_now), float(cutout.now)) == pytest.approx(values)


def test_r3gan_is_annealed_over_any_length() -> None:
    for length in (700, 20_000):
        items = [f"train.iterations={length}", "data.source=digits"]
        settings = load_settings(CONFIGS / "folder+networks/r3gan", items).of_length()
        train, chosen = settings.train, settings.regularize
        half_life = cast(HalfLife, train.ema_decay).half_life
        values = train.g_lr, train.d_lr, train.betas[1], chosen.r1, chosen.r2, half_life
        assert {cast(Schedule, value).iterations for value in values} == {length}


def test_the_length_of_the_run_has_to_be_known() -> None:
    with pytest.raises(ValueError, match="the length of the run is not known"):
        Schedule(start=1, end=0, iterations="auto")(3)


def test_r3gans_half_life_is_the_published_share_of_a_long_run() -> None:
    """The limit on short runs has no effect at the length of `folder`."""
    settings = load_settings(CONFIGS / "folder+networks/r3gan", ["data.source=digits"]).of_length()
    limited = cast(HalfLife, settings.train.ema_decay)
    free = limited.model_copy(update={"ramp_up": None})
    decays = [x.of_batch(settings.train.batch_size) for x in (limited, free)]
    for iteration in range(1, 20_001, 111):
        assert decays[0](iteration) == decays[1](iteration)


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
