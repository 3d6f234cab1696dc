"""Keeps decompositions, exponentials and statistics in float32 or better in a model of any type."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn


def at_least_float32(x: Tensor) -> Tensor:
    """Converts floating-point types below 32 bits to float32; returns all others as they are."""
    return x.float() if x.is_floating_point() and x.dtype.itemsize < 4 else x


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Context in which autocast is disabled on the tensor's device, and TF32 in products."""
    kind = x.device.type
    if torch.backends.cuda.matmul.allow_tf32:
        return _without_tf32(kind)
    if not torch.amp.is_autocast_available(kind):  # for example the meta device
        return nullcontext()
    return torch.autocast(kind, enabled=False)


@contextmanager
def _without_tf32(kind: str) -> Iterator[None]:
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(kind, enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = True


class Precise(nn.Module):
    """A module whose parameters and buffers stay in float32 or better when `.to()` is called."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Precise":
        def moved(x: Tensor) -> Tensor:
            y = fn(x)
            lowered = y.is_floating_point() and y.dtype.itemsize < 4
            return at_least_float32(x.to(y.device)) if lowered else y

        return super()._apply(moved, recurse)  # type: ignore[no-untyped-call]


Loss = Callable[[Any, Tensor, Tensor], Tensor]


def full_precision(forward: Loss) -> Loss:
    """Decorates the `forward` of a loss so that it is computed without autocast.

    The student's features are converted to float32 or better; the teacher's are detached and
    converted to the student's type.
    """

    @wraps(forward)
    def precise(self: Any, student: Tensor, teacher: Tensor) -> Tensor:
        student = at_least_float32(student)
        with without_autocast(student):
            return forward(self, student, teacher.detach().to(student.dtype))

    return precise
