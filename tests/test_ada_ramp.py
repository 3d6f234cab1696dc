"""ADA at a probability that rises to a number, and with a share of it for colours."""

import math

import pytest
import torch

from gan_vkd.data.augment.ada import Ada
from gan_vkd.data.augment.ada.ramp import Ramp
from gan_vkd.runtime.errors import SettingsError
from tests.conftest import MakeSettings


def test_p_rises_along_half_a_cosine_and_stays() -> None:
    ramp, path = Ramp(0.6, every=4, kimg=0.08), []
    assert ramp.p == 0
    for _ in range(14):
        ramp.observe(torch.randn(8))
        path.append(float(ramp.p))
    expected = [0.3 * (1 - math.cos(math.pi * n / 10)) for n in range(1, 10)]
    assert path == pytest.approx([*expected, *[0.6] * 5])


def test_scores_are_measured_and_change_nothing() -> None:
    one, other = (Ramp(0.6, every=2, kimg=1) for _ in range(2))
    for _ in range(2):
        one.observe(torch.ones(8))
        other.observe(-torch.ones(8))
    assert one.p == other.p
    assert (one.rt, other.rt) == (1, -1)


def test_the_ramp_continues_from_its_state() -> None:
    one, other = (Ramp(0.6, every=4, kimg=1) for _ in range(2))
    for _ in range(5):
        one.observe(torch.ones(8))
    other.load_state_dict(one.state_dict())
    for ramp in (one, other):
        ramp.observe(torch.ones(8))
    assert one.p == other.p > 0


def test_colours_have_a_share_of_the_probability() -> None:
    torch.manual_seed(0)
    images = torch.rand(400, 3, 2, 2) - 0.5
    for share in (0.0, 0.5, 1.0):
        augmented = Ada(groups=("color",), p=0.5, color_share=share)(images)
        changed = ~torch.isclose(augmented, images, atol=1e-5).all(3).all(2).all(1)
        # of five operations, one of which does nothing to half of its samples
        unchanged = (1 - share / 2) ** 4 * (1 - share / 4)
        assert float(changed.float().mean()) == pytest.approx(1 - unchanged, abs=0.08)


def test_a_ramp_needs_a_number_to_lead_to(small: MakeSettings) -> None:
    ada = "augment=[{{name: ada, p: {}, ramp: 100}}]"
    with pytest.raises(SettingsError, match="ramp leads to a number"):
        small(ada.format("adaptive"), arm="none")
    small(ada.format(0.55), arm="none")
    agreement = (
        "distill.method.normalization={name: whitening, directions: agreement, "
        "statistics: training_set}"
    )
    with pytest.raises(SettingsError, match="no ramp"):
        small(agreement, ada.format(0.55))
