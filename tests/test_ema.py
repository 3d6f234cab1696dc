"""The EMA by half-life in images, with its ramp, against closed forms."""

import pytest
import yaml

from gan_vkd.game.ema import HalfLife
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.schedule import Schedule
from tests.conftest import MakeSettings
from tests.test_gan import batch, build, copy


@pytest.mark.parametrize("batch_size", [8, 50])
def test_a_generators_weight_halves_every_half_life(batch_size: int) -> None:
    decay = HalfLife(half_life=2000, ramp_up=None).of_batch(batch_size)
    weight = 1.0
    for iteration in range(2000 // batch_size):
        weight *= decay(iteration)
    assert weight == pytest.approx(0.5)


def test_the_automatic_half_life_is_ten_thousand_images_at_batch_32() -> None:
    for size, images in ((32, 10_000), (64, 20_000), (8, 2_500)):
        decay = HalfLife(half_life="auto", ramp_up=None).of_batch(size)
        assert decay(0) == pytest.approx(0.5 ** (size / images))


def test_the_ramp_limits_the_half_life_to_a_share_of_the_images_so_far() -> None:
    decay = HalfLife(half_life=10_000, ramp_up=0.05).of_batch(32)
    assert decay(0) == 0  # a copy
    for iteration in (1, 10, 6000):
        assert decay(iteration) == pytest.approx(0.5 ** (1 / (0.05 * iteration)))
    assert decay(6250) == decay(10**7) == pytest.approx(0.5 ** (32 / 10_000))  # from 200,000 on


def test_the_half_life_may_follow_a_schedule() -> None:
    grown = Schedule(start=0, end=1000, iterations=10)
    decay = HalfLife(half_life=grown, ramp_up=None).of_batch(100)
    assert decay(0) == 0
    assert decay(5) == pytest.approx(0.5 ** (100 / 500))
    assert decay(10) == pytest.approx(0.5 ** (100 / 1000))


def test_a_half_life_is_the_alternative_to_a_decay_in_settings(small: MakeSettings) -> None:
    settings = small("train.ema_decay={half_life: 400}", arm="none")
    again = type(settings).model_validate(yaml.safe_load(settings.dump()))
    assert again.train.ema_decay == HalfLife(half_life=400, ramp_up=0.05)
    assert small("train.ema_decay={half_life: 400}", "train.ema_decay=0.9").train.ema_decay == 0.9

    gan = build(small, "train.ema_decay={half_life: 16}", "train.ema_start=0", arm="none")
    before = copy(gan.ema.generator)
    gan.generator_step(batch().labels, 100)
    for name, value in gan.ema.generator.state_dict().items():
        new = gan.generator.state_dict()[name]
        assert value.allclose(before[name].lerp(new, 1 - 0.5 ** (8 / 16)), atol=1e-6)


@pytest.mark.parametrize(
    "value",
    ["{half_life: -1}", "{half_life: long}", "{half_life: 5, ramp_up: 0}", "{ramp_up: 0}",
     "{half_life: 5, decay: 0.9}", "{half_life: true}"],
)  # fmt: skip
def test_a_wrong_half_life_is_refused_in_one_line(value: str, small: MakeSettings) -> None:
    with pytest.raises(SettingsError, match=r"train\.ema_decay: expected \{half_life: ") as error:
        small(f"train.ema_decay={value}", arm="none")
    assert len(str(error.value).splitlines()) == 1
