"""The precision of networks: what a setting stands for, and what stays in float32."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gan_vkd.data.batches import Batch
from gan_vkd.distill.precision import without_autocast
from gan_vkd.game.gradient_penalties import r1_penalty
from gan_vkd.game.trainer import Trainer
from gan_vkd.networks.biggan import Discriminator, Generator
from gan_vkd.networks.layers import standardize
from gan_vkd.runtime import across, precision
from gan_vkd.runtime.devices import pick_device
from gan_vkd.runtime.precision import autocast, backward_in, resolve
from tests.conftest import MakeSettings
from tests.test_gan import build

FLAGS = torch.backends.cudnn, torch.backends.cuda.matmul


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """This device passes for one with every precision."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda kind: True)
    monkeypatch.setattr(precision, "_supports", lambda kind, name: True)


@pytest.fixture
def flags() -> Iterator[None]:
    """TF32 is off, and as it was afterwards."""
    before = [flag.allow_tf32 for flag in FLAGS]
    for flag in FLAGS:
        flag.allow_tf32 = False
    yield
    for flag, allowed in zip(FLAGS, before, strict=True):
        flag.allow_tf32 = allowed


def allowed() -> tuple[bool, bool]:
    """Whether convolutions and products of matrices may be computed in TF32."""
    convolutions, products = (flag.allow_tf32 for flag in FLAGS)
    return convolutions, products


# what a setting stands for


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("faster", [False, True])
def test_auto_is_bfloat16_where_it_is_native_and_on_cpus_faster(
    kind: str, native: bool, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda asked: native and asked == kind)
    monkeypatch.setattr(precision, "_bfloat16_is_faster", lambda channels: faster)
    lower = native and (faster or kind == "cuda")
    assert resolve("auto", f"{kind}:1", 8) == ("bfloat16" if lower else "float32")


@pytest.mark.parametrize("name", ["tf32", "bfloat16"])
def test_a_precision_that_the_device_lacks_is_replaced_with_a_message(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda kind: False)
    precision._supports.cache_clear()
    try:
        assert [resolve(name, "cpu", 8) for _ in range(2)] == ["float32", "float32"]
    finally:
        precision._supports.cache_clear()
    assert capsys.readouterr().out == f"cpu: no {name} arithmetic, computing in float32\n"


@pytest.mark.usefixtures("able")
def test_only_auto_follows_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_bfloat16_is_faster", lambda channels: False)
    assert resolve("auto", "cpu", 8, earlier="bfloat16") == "bfloat16"
    assert resolve("float32", "cpu", 8, earlier="bfloat16") == "float32"
    assert resolve("tf32", "cpu", 8, earlier=None) == "tf32"


@pytest.mark.parametrize(("name", "earlier"), [("half", None), ("auto", "half")])
def test_an_unknown_precision_is_refused(name: str, earlier: str | None) -> None:
    with pytest.raises(ValueError, match="unknown precision 'half'"):
        resolve(name, "cpu", 8, earlier)


def test_the_measurement_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    assert precision._bfloat16_is_faster.__wrapped__(4) in (False, True)
    assert torch.equal(torch.get_rng_state(), before)


# what stays in float32

# the operations of networks; all others, such as those of losses and optimisers, take float32
IN_NETWORKS = {
    "convolution", "convolution_backward", "addmm", "mm", "t", "relu", "threshold_backward",
    "avg_pool2d", "avg_pool2d_backward", "upsample_nearest2d", "upsample_nearest2d_backward",
    "native_batch_norm", "native_batch_norm_backward", "add", "add_", "addcmul", "mul", "tanh",
    "tanh_backward", "sum", "mean", "expand", "view", "_unsafe_view", "reshape", "slice", "squeeze",
    "unsqueeze", "_to_copy", "detach", "clone", "permute", "alias", "zeros_like", "new_zeros",
    "transpose", "as_strided_", "slice_backward", "constant_pad_nd", "zeros",
}  # fmt: skip


class Watching(TorchDispatchMode):
    """Calls `look(name, tensors, args)` after each operation; tensors: inputs and outputs."""

    def __init__(self, look: Callable[[str, list[Tensor], Any], None]) -> None:
        super().__init__()
        self.look = look

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, out))
        name = func.overloadpacket.__name__
        self.look(name, [x for x in leaves if isinstance(x, Tensor)], args)
        return out


def update(trainer: Trainer, number: int) -> dict[str, Tensor]:
    """A step of each network on the same images and latents for each number."""
    torch.manual_seed(number)
    real = torch.rand(4, 3, 32, 32) * 2 - 1
    labels = torch.tensor([1, 4, 4, 9])
    batch = Batch(real, labels, torch.arange(4), torch.zeros(4, dtype=torch.bool))
    logged = trainer.discriminator_step(batch, labels.flip(0), number)
    return logged | trainer.generator_step(labels, number)


ALL_TERMS = (
    "model.ch=8", "regularize.r1=1", "regularize.r1_every=1", "regularize.lecam=0.3",
    "regularize.lecam_start=0", "regularize.consistency=10", "distill.method.projection=orthogonal",
    "distill.student.scaling=batch", "distill.weight=auto",
)  # fmt: skip


@pytest.mark.usefixtures("able")
def test_only_networks_compute_in_bfloat16(small: MakeSettings) -> None:
    seen = defaultdict[torch.dtype, set[str]](set)

    def look(name: str, tensors: list[Tensor], args: Any) -> None:
        for x in tensors:
            seen[x.dtype].add(name)
        if name == "native_batch_norm":
            assert all(x.dtype == torch.float32 for x in tensors if x.ndim == 1)  # statistics

    trainer = build(small, *ALL_TERMS, "train.precision=bfloat16")
    with Watching(look):
        logged = update(trainer, 0)
    assert {"convolution", "convolution_backward", "native_batch_norm"} <= seen[torch.bfloat16]
    assert seen[torch.bfloat16] <= IN_NETWORKS
    assert torch.float16 not in seen
    assert {value.dtype for value in logged.values()} == {torch.float32}
    kept = [x for x in tree_leaves(trainer.state()) if isinstance(x, Tensor)]
    assert {x.dtype for x in kept if x.is_floating_point()} <= {torch.float32, torch.float64}


@pytest.mark.usefixtures("able")
def test_losses_in_bfloat16_follow_those_in_float32(small: MakeSettings) -> None:
    plain, lowered = (
        build(small, "model.ch=8", "regularize.r1=1", f"train.precision={name}")
        for name in ("float32", "bfloat16")
    )
    for number in range(4):
        expected, found = update(plain, number), update(lowered, number)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0.05, atol=0.05, msg=name)


def test_r1_in_bfloat16_is_that_of_float32_up_to_rounding() -> None:
    """bfloat16 has a relative error of 1/256; the gradient goes through every layer twice."""
    torch.manual_seed(0)
    network = Discriminator(32, 8, 10).eval()
    weights = [p for name, p in network.named_parameters() if name.endswith("weight")]
    images, labels = torch.rand(8, 3, 32, 32) * 2 - 1, torch.randint(10, (8,))
    found = []
    for enabled in (False, True):
        real = images.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            score = network(real, labels).score
        penalty = r1_penalty(score, real)
        slopes = torch.autograd.grad(penalty, weights)
        assert {x.dtype for x in (penalty, *slopes)} == {torch.float32}
        found.append((penalty.detach(), torch.cat([slope.flatten() for slope in slopes])))
    (value, slope), (rounded, rounded_slope) = found
    torch.testing.assert_close(rounded, value, rtol=0.01, atol=0)
    assert (rounded_slope - slope).norm() < 0.03 * slope.norm()


def test_statistics_over_ranks_are_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks with the same images; in bfloat16 the mean would have three digits."""
    monkeypatch.setattr(across, "world", lambda: 2)
    monkeypatch.setattr(across, "total", lambda x: 2 * x)
    torch.manual_seed(0)
    x = (torch.randn(20, 3, 16, 16) + 30).bfloat16()
    mean, var = torch.zeros(3), torch.ones(3)
    y = standardize(x, mean, var, training=True)
    expected = F.batch_norm(x.float(), None, None, training=True)
    torch.testing.assert_close(mean, 0.1 * x.float().mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(y, expected.bfloat16())


# TF32


@pytest.mark.usefixtures("flags")
def test_commands_compute_without_tf32() -> None:
    torch.backends.cudnn.allow_tf32 = True  # as torch starts
    pick_device("cpu")
    assert allowed() == (False, False)


@pytest.mark.usefixtures("able", "flags")
def test_tf32_is_for_convolutions_and_linear_layers_of_networks(small: MakeSettings) -> None:
    """Linear layers take it in the forward, where their products are the only ones with a bias."""
    convolutions, products = set[tuple[str, bool, bool]](), set[tuple[str, bool]]()

    def look(name: str, tensors: list[Tensor], args: Any) -> None:
        of_convolutions, of_products = allowed()
        if name.startswith("convolution"):
            convolutions.add((name, of_convolutions, of_products))
        elif name in ("addmm", "mm", "bmm", "linalg_matrix_exp", "_linalg_eigh"):
            products.add((name, of_products))

    trainer = build(small, *ALL_TERMS[:1], *ALL_TERMS[3:], "train.precision=tf32")
    with Watching(look):
        update(trainer, 0)
    assert convolutions == {
        ("convolution", True, True), ("convolution_backward", True, False)
    }  # fmt: skip
    assert ("addmm", True) in products
    assert {name for name, lowered in products if lowered} == {"addmm"}
    assert allowed() == (False, False)


@pytest.mark.usefixtures("able", "flags")
def test_tf32_ends_with_its_contexts_and_within_those_of_float32() -> None:
    with autocast("cpu", "tf32"):
        assert allowed() == (True, True)
        with without_autocast(torch.zeros(())):
            assert allowed() == (True, False)
        assert allowed() == (True, True)
    assert allowed() == (False, False)
    with backward_in("tf32"):
        assert allowed() == (True, False)
    for name in ("float32", "bfloat16"):
        with backward_in(name), autocast("cpu", name):
            assert allowed() == (False, False)


@pytest.mark.usefixtures("able", "flags")
def test_tf32_ends_with_an_error() -> None:
    def fail() -> None:
        with autocast("cpu", "tf32"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert allowed() == (False, False)


def test_the_trainer_has_the_precision_that_auto_stands_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda kind: True)
    monkeypatch.setattr(precision, "_supports", lambda kind, name: True)
    monkeypatch.setattr(precision, "_bfloat16_is_faster", lambda channels: channels == 8)
    for ch, expected in ((2, "bfloat16"), (4, "float32")):
        trainer = Trainer(Generator(32, ch), Discriminator(32, ch), precision="auto")
        assert trainer.precision == trainer.state()["precision"] == expected
