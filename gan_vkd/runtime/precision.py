"""Precision of networks: the convolutions and linear layers of a forward and a backward pass.

Everything else is computed in float32 or better, whatever is chosen: spectral norms, batch
statistics, losses, penalties, projections, normalisations, averages and optimisers.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F

from gan_vkd.runtime import ranks

Precision = Literal["auto", "float32", "tf32", "bfloat16"]

ROUNDS = 5  # of the measurement
MOST_CHANNELS = 256  # of the measured convolution, so that it stays short


def resolve(name: str, device: str, channels: int, earlier: str | None = None) -> str:
    """Returns the precision that a setting stands for on a device; all ranks get that of rank 0.

    `auto` is bfloat16 if the device has bfloat16 arithmetic and, on a CPU, if a convolution is
    measured to be faster in it; otherwise float32. A precision that the device lacks is replaced
    by float32, with a message.

    Args:
        name: `auto`, `float32`, `tf32` or `bfloat16`.
        device: of the networks.
        channels: of the convolution that is measured.
        earlier: the precision of the checkpoint that is continued, which `auto` then stands for.

    Raises:
        ValueError: another name.
    """
    kind = device.partition(":")[0]
    wanted = earlier if name == "auto" and earlier is not None else name

    def chosen() -> str:
        if wanted == "auto":
            lower = has_bfloat16(kind) and (kind != "cpu" or _bfloat16_is_faster(channels))
            return "bfloat16" if lower else "float32"
        return wanted if wanted == "float32" or _supports(kind, wanted) else "float32"

    return ranks.from_first(chosen)


def autocast(device: str, precision: str) -> AbstractContextManager[object]:
    """Context of a network's forward in a precision.

    In TF32 linear layers are computed by products of matrices, like much that is not a network:
    `gan_vkd.distill.precision.without_autocast` returns to float32 within this context.
    """
    kind = device.partition(":")[0]
    if precision == "tf32" and _supports(kind, precision):
        return _tf32(torch.backends.cudnn, torch.backends.cuda.matmul)
    enabled = precision == "bfloat16" and _supports(kind, precision)
    return torch.autocast(kind, torch.bfloat16, enabled=enabled)


def backward_in(precision: str) -> AbstractContextManager[object]:
    """Context of a backward pass: convolutions in TF32 if the forward was computed in it.

    Products of matrices stay in float32, since those of the losses cannot be told apart there.
    """
    return _tf32(*([torch.backends.cudnn] if precision == "tf32" else []))


@contextmanager
def _tf32(*backends: Any) -> Iterator[None]:
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = True
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


@cache
def _supports(kind: str, precision: str) -> bool:
    """Whether the device computes natively in a lower precision; prints it if not."""
    known = {"bfloat16": has_bfloat16, "tf32": has_tf32}
    if precision not in known:
        raise ValueError(f"unknown precision {precision!r}")
    supported = known[precision](kind)
    if not supported:
        print(f"{kind}: no {precision} arithmetic, computing in float32")
    return supported


@cache
def has_bfloat16(kind: str) -> bool:
    """Returns whether the device has bfloat16 arithmetic; emulation by torch is slower.

    Among CPUs only x86 models can be detected; others count as without.
    """
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return True


@cache
def has_tf32(kind: str) -> bool:
    """Returns whether the device has TF32 arithmetic."""
    return kind == "cuda" and torch.cuda.is_tf32_supported()


@cache
def _bfloat16_is_faster(channels: int) -> bool:
    """Measures a 3x3 convolution on the CPU, forward and backward, in interleaved rounds.

    Draws no random numbers, so that a run is the same as with the measured precision set.
    """
    width = min(channels, MOST_CHANNELS)
    x, weight = (
        torch.ones(shape).to(memory_format=torch.channels_last).requires_grad_()
        for shape in ((8, width, 8, 8), (width, width, 3, 3))
    )
    seconds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for _ in range(ROUNDS + 1):
        for precision, taken in seconds.items():
            start = time.perf_counter()
            with autocast("cpu", precision):
                y = F.conv2d(x, weight, padding=1)
            torch.autograd.grad(y.float().sum(), (x, weight))
            taken.append(time.perf_counter() - start)
    medians = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}
    return medians["bfloat16"] < medians["float32"]
