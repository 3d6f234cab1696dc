"""ADA as a whole: the pipeline of operations, in the trainer and in settings."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from gan_vkd.data.augment import Ada, Augmentations
from gan_vkd.data.augment.ada.pipeline import Group
from gan_vkd.runtime.errors import SettingsError
from tests.conftest import MakeSettings
from tests.test_gan import batch, build
from tests.test_waits import NoWaits

GROUPS = get_args(Group)
SHAPES = [(4, 3, 32, 32), (4, 1, 24, 32), (4, 4, 20, 12)]
EVERYTHING: dict[str, Any] = {"name": "ada", "groups": GROUPS}


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2 - 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group", GROUPS)
def test_no_group_changes_anything_at_probability_zero(
    group: Group, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    given = images(*shape)
    torch.testing.assert_close(Ada(groups=(group,), p=0)(given), given, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("group", GROUPS)
def test_every_group_changes_images_at_probability_one(
    group: Group, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    given = images(*shape)
    found = Ada(groups=(group,), p=1)(given)
    assert found.shape == given.shape
    assert found.dtype == given.dtype
    assert torch.isfinite(found).all()
    assert (found - given).abs().mean() > 0.01


def test_parameters_are_drawn_per_sample() -> None:
    torch.manual_seed(0)
    found = Ada(groups=GROUPS, p=0.9)(images(1, 3, 16, 16).repeat(8, 1, 1, 1))
    distances = torch.cdist(found.flatten(1), found.flatten(1)) + torch.eye(8)
    assert distances.min() > 0.1


@pytest.mark.parametrize("channels", [1, 3])
def test_first_and_second_derivatives_are_those_of_the_images(channels: int) -> None:
    ada = Ada(groups=GROUPS, p=0.8)

    def augmented(given: Tensor) -> Tensor:
        torch.manual_seed(1)
        return ada(given)

    given = images(2, channels, 6, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(augmented, given)
    assert torch.autograd.gradgradcheck(augmented, given)


def test_the_augmented_images_are_affine_in_the_images() -> None:
    ada = Ada(groups=GROUPS, p=0.8)

    def augmented(given: Tensor) -> Tensor:
        torch.manual_seed(1)
        return ada(given)

    one, other = (images(4, 3, 16, 12, dtype=torch.float64) * s for s in (1, -0.5))
    middle = (augmented(one) + augmented(other.flip(0))) / 2
    torch.testing.assert_close(augmented((one + other.flip(0)) / 2), middle)


def test_augmenting_does_not_synchronise() -> None:
    ada, given = Ada(groups=GROUPS), images(4, 3, 16, 12).requires_grad_()
    ada(given)
    with NoWaits():
        ada(given).sum().backward()
        ada.observe(torch.randn(4))
        ada.logged()


def test_a_policy_observes_and_logs_what_its_parts_do() -> None:
    policy = Augmentations(["color", {"name": "ada", "every": 1, "kimg": 0.01}])
    before = policy.logged()
    policy.observe(torch.ones(5))
    assert {name: value.item() for name, value in before.items()} == {"ada_p": 0, "ada_rt": 0}
    assert {name: value.item() for name, value in policy.logged().items()} == {
        "ada_p": 0.5,
        "ada_rt": 1,
    }


# in a run


def test_a_step_with_r1_logs_the_controller(small: MakeSettings) -> None:
    chosen = {**EVERYTHING, "groups": list(GROUPS), "every": 2, "kimg": 0.1, "target": -1}
    gan = build(small, f"augment=[{chosen}]", "regularize={r1: 0.5, r1_every: 2}")
    gan.augment.parts[0].controller.p.fill_(0.5)  # type: ignore[union-attr]
    logged = [gan.discriminator_step(batch(), batch().labels, number) for number in range(2)]
    assert logged[0]["r1_loss"].isfinite()
    assert logged[0]["r1_loss"] > 0
    assert logged[0]["ada_p"] == 0.5
    assert logged[1]["ada_rt"].abs() <= 1
    assert logged[1]["ada_p"] >= 0.5
    before = [p.clone() for p in gan.generator.parameters()]
    gan.generator_step(batch().labels, 0)
    assert not any(map(torch.equal, before, gan.generator.parameters()))


def test_an_iteration_does_not_synchronise(
    small: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    gan = build(
        small, f"augment=[{ {**EVERYTHING, 'groups': list(GROUPS), 'every': 1} }]", arm="none"
    )
    for optimizer in (gan.g_optimizer, gan.d_optimizer):  # its step counts are on the CPU
        monkeypatch.setattr(optimizer, "step", lambda: None)
    gan.discriminator_step(batch(), batch().labels, 0)
    with NoWaits():
        gan.discriminator_step(batch(), batch().labels, 1)
        gan.generator_step(batch().labels, 0)


@pytest.mark.parametrize("flip", [True, False])
def test_images_are_mirrored_where_the_data_are(flip: bool, small: MakeSettings) -> None:
    def flips(*options: str) -> list[bool]:
        settings = small(*options, f"data.flip={flip}", arm="none")
        return [part.flip for part in Augmentations(settings.policy).parts]

    assert flips("augment=[ada]") == [flip]
    assert flips("augment=[{name: ada, flip: true}]") == [True]
    assert flips("augment=[{name: ada, flip: false}]") == [False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("p: 2", "a number from 0 to 1, or adaptive"),
        ("groups: [bgc]", "'blit', 'geometric', 'color', 'filter', 'noise' or 'cutout'"),
        ("groups: []", "name at least one"),
        ("every: 0", "greater than or equal to 1"),
        ("kimg: 0", "greater than 0"),
        ("target: 2", "less than or equal to 1"),
    ],
)
def test_options_are_checked(options: str, message: str, small: MakeSettings) -> None:
    with pytest.raises(SettingsError, match=message):
        small(f"augment=[{{name: ada, {options}}}]")


def test_two_views_need_an_augmentation_before_training(small: MakeSettings) -> None:
    agreement = (
        "distill.method.normalization={name: whitening, directions: agreement, "
        "statistics: training_set}"
    )
    with pytest.raises(SettingsError, match="a number for p"):
        small(agreement, "augment=[ada]")
    small(agreement, "augment=[{name: ada, p: 0.5}]")
    small(agreement, "augment=[ada, translation]")
