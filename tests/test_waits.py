"""Training steps do not synchronise with the device: they read no tensor value in Python."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from gan_vkd.distill import NORMALIZATIONS, VkDLoss, retract
from tests.conftest import MakeSettings
from tests.test_gan import batch, build

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default,  # item(), int(), bool(), an if
    aten.equal.default,
    aten.nonzero.default,
    aten._linalg_check_errors.default,
}


class NoWaits(TorchDispatchMode):
    """Raises at operations that synchronise with a GPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in WAITS:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def test_the_mode_detects_synchronisation() -> None:
    for wait in (torch.any, torch.Tensor.item, lambda x: torch.equal(x, x), torch.linalg.inv):
        with pytest.raises(AssertionError, match="waits"), NoWaits():
            bool(wait(torch.ones(1, 1)))


@pytest.mark.parametrize("statistics", ["running", "batch"])
@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("name", [*NORMALIZATIONS, "whitening pca", "whitening cholesky"])
def test_a_step_of_vkd_does_not_synchronise(name: str, fitted: bool, statistics: str) -> None:
    """In the third step, since decompositions, which synchronise, happen at powers of two."""
    counted = name not in ("layer_norm", "l2", "none")
    name, _, kind = name.partition(" ")
    options = ({"statistics": statistics} if counted else {}) | ({"kind": kind} if kind else {})
    method = VkDLoss(4, 8, normalization={"name": name, **options})
    optimizer = torch.optim.SGD(method.parameters(), 0.1)
    z, y = torch.randn(16, 4), torch.randn(16, 8)
    if fitted and counted:
        method.normalize.fit([y])
    for _ in range(2):
        method(z, y)
    with NoWaits():
        loss = method(z, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        retract(method)


STYLEGAN2 = ("model=stylegan2", "model.channel_base=64", "regularize={r1: auto, r1_every: 2}")


@pytest.mark.parametrize(
    ("arm", "overrides"),
    [("none", ()), ("layernorm", ()), ("whitening", ()), ("whitening", STYLEGAN2)],
)
def test_an_iteration_does_not_synchronise(
    arm: str, overrides: tuple[str, ...], small: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    gan, step = build(small, *overrides, arm=arm), torch.optim.Adam.step

    def unwatched(self: torch.optim.Adam) -> None:
        with _disable_current_modes():  # Adam's step counts are on the CPU
            step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", unwatched)
    given = batch()
    for number in range(2):
        gan.discriminator_step(given, given.labels, number)
    with NoWaits():
        gan.discriminator_step(given, given.labels, 2)
        gan.generator_step(given.labels, 2)
