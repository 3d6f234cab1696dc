"""Training steps do not synchronise with the device: they read no tensor value in Python."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from gan_vkd.distill import NORMALIZATIONS, VkDLoss, retract
from tests.conftest import MakeSettings
from tests.test_gan import batch, build
from tests.waits import NoWaits

WAITING: dict[str, Callable[[torch.Tensor], Any]] = {
    "an if": lambda x: 1 if x.any() else 0,
    "item": torch.Tensor.item,
    "equal": lambda x: torch.equal(x, x),
    "new_tensor": lambda x: x.new_tensor(0.5),
    "where": torch.where,
    "a mask": lambda x: x[x > 0],
    "writing by a mask": lambda x: x.index_put_((x > 0,), x[0, 0]),
    "unique": torch.unique,
    "inv": torch.linalg.inv,
    "solve": lambda x: torch.linalg.solve(x, x),
    "cholesky": torch.linalg.cholesky,
    "eigh": torch.linalg.eigh,
    "eigvalsh": torch.linalg.eigvalsh,
    "svd": torch.linalg.svd,
    "the spectral norm": lambda x: torch.linalg.matrix_norm(x, 2),
    "pinv": torch.linalg.pinv,
    "lstsq": lambda x: torch.linalg.lstsq(x, x),
    "matrix_exp": torch.linalg.matrix_exp,
}


@pytest.mark.parametrize("wait", WAITING)
def test_the_mode_detects_synchronisation(wait: str) -> None:
    x = torch.ones(1, 1)
    with pytest.raises(AssertionError, match="waits"), NoWaits():
        WAITING[wait](x)


def test_the_mode_lets_pass_what_stays_on_the_device() -> None:
    x = torch.eye(3)
    with NoWaits():
        torch._assert_async(x.any())
        torch.linalg.cholesky_ex(x)
        torch.linalg.solve_triangular(x, x, upper=True)
        x[x.argmax(0)] = x.masked_fill(x > 0, 2.0) @ torch.where(x > 0, x, 0.0)


@pytest.mark.parametrize("statistics", ["running", "batch"])
@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("name", [*NORMALIZATIONS, "whitening pca", "whitening cholesky"])
def test_a_step_of_vkd_does_not_synchronise(name: str, fitted: bool, statistics: str) -> None:
    """In the third step, since decompositions, which synchronise, happen at powers of two.

    Eigenvectors of every batch are a decomposition in every step; its Cholesky factor is none.
    """
    counted = name not in ("layer_norm", "l2", "none")
    name, _, kind = name.partition(" ")
    options = {"statistics": statistics} if counted else {}
    if kind:
        options |= {"kind": kind, "shrinkage": 0.1}
    method = VkDLoss(4, 8, normalization={"name": name, **options})
    optimizer = torch.optim.SGD(method.parameters(), 0.1)
    z, y = torch.randn(16, 4), torch.randn(16, 8)
    if fitted and counted:
        method.normalize.fit([y])
    for _ in range(2):
        method(z, y)
    of_batch = statistics == "batch" and not fitted
    waits = of_batch and name in ("whitening", "phi_s") and kind != "cholesky"
    with pytest.raises(AssertionError, match="_linalg_eigh") if waits else nullcontext(), NoWaits():
        loss = method(z, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        retract(method)


REGULARIZED = "regularize={lecam: 0.3, lecam_start: 0, consistency: 2, r1: 0.5, r1_every: 1}"
SOMETIMES = "augment=[{name: color, p: 0.5}, {name: cutout, p: {start: 1, end: 0, iterations: 9}}]"
AUTO = ("distill.weight=auto", "distill.student.scaling=batch", "distill.aggregated=1")
STYLEGAN2 = (
    "model=stylegan2", "model.channel_base=64",
    "regularize={r1: auto, r1_every: 2, path_length: 2, path_length_every: 2}",
)  # fmt: skip

R3GAN = (
    "model={name: r3gan, channel_base: 64, group_width: 4}", "adversary=relativistic",
    "regularize={r1: 2, r2: {start: 2, end: 1, iterations: 9}, r1_every: 1}",
)  # fmt: skip


@pytest.mark.parametrize(
    ("arm", "overrides"),
    [("none", ()), ("layernorm", ()), ("whitening", ()), ("none", (REGULARIZED,)),
     ("whitening", AUTO), ("whitening", ("distill.student.feature=head",)),
     ("whitening", STYLEGAN2), ("whitening", R3GAN), ("none", (SOMETIMES,))],
)  # fmt: skip
def test_an_iteration_does_not_synchronise(
    arm: str, overrides: tuple[str, ...], small: MakeSettings
) -> None:
    gan, given = build(small, *overrides, arm=arm), batch()
    for number in range(2):
        gan.discriminator_step(given, given.labels, number)
    with NoWaits():
        gan.discriminator_step(given, given.labels, 2)
        gan.generator_step(given.labels, 2, given)
