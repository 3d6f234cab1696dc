"""The watch names the first non-finite tensor and does not synchronise with the device."""

import pytest
import torch

from gan_vkd.runtime.finite import Watch
from gan_vkd.training import Game

NAN, INF = float("nan"), float("inf")


def look(watch, iteration, **values):
    watch.look({name: torch.tensor(value) for name, value in values.items()}, iteration)


def test_the_first_fault_is_kept():
    watch = Watch()
    assert watch.fault() is None
    look(watch, 1, a=[1.0, 2.0], b=3.0)
    assert watch.fault() is None
    look(watch, 2, c=1.0)
    look(watch, 3, a=[1.0, INF], b=NAN)
    look(watch, 3, c=-INF)
    assert watch.fault() == ("a", 3)
    look(watch, 4, a=[1.0, 1.0], b=1.0)
    assert watch.fault() == ("a", 3), "the first fault is kept"
    other = Watch()
    look(other, 5, a=[1.0], b=NAN)
    look(other, 4, c=NAN)
    assert other.fault() == ("c", 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_all_dtypes_are_watched_together(dtype):
    watch = Watch()
    watch.look({"a": torch.ones(3, dtype=dtype), "b": torch.ones(2, dtype=torch.float64)}, 1)
    assert watch.fault() is None
    bad = torch.tensor([1.0, NAN, 1.0], dtype=dtype)
    watch.look({"a": bad, "b": torch.ones(2, dtype=torch.float64)}, 2)
    assert watch.fault() == ("a", 2)


def test_an_empty_dictionary_is_accepted():
    watch = Watch()
    watch.look({}, 1)
    assert watch.fault() is None


def test_the_watch_does_not_synchronise_with_the_device():
    """A meta tensor has no values, so reading one raises."""
    watch = Watch()
    for iteration in range(3):
        watch.look({"a": torch.ones(3, device="meta")}, iteration)
    with pytest.raises((RuntimeError, NotImplementedError)):
        watch.fault()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("distillation.method.methods.0.normalize.transform", "distill.method.normalization.eps"),
        ("distill_loss", "distill.weight"),
        ("d_loss", "train.d_lr"),
        ("g_loss", "train.d_lr"),  # of finite images, which are watched before
        ("the generated images", "train.g_lr"),
        ("the gradient at the generated images", "train.d_lr"),
        ("the gradient of generator.linear.weight", "train.g_lr"),
        ("the gradient of discriminator.linear.weight", "train.d_lr"),
    ],
)
def test_the_remedy_names_a_setting_of_the_right_part(name, expected):
    assert expected in Game.remedy(name)
