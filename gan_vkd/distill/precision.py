"""Decompositions, exponentials and statistics in float32 or better, whatever the model is in."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn


def at_least_float32(x: Tensor) -> Tensor:
    """Half types become float32, float32 and float64 stay as they are."""
    return x.float() if x.dtype.itemsize < 4 else x


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Within it operations on the tensor's device are done in its own type."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):  # of meta tensors
        return nullcontext()
    return torch.autocast(kind, enabled=False)


class Precise(nn.Module):
    """A module whose parameters and buffers follow `.to()` everywhere but below float32."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Precise":
        def moved(x: Tensor) -> Tensor:
            y = fn(x)
            lowered = y.is_floating_point() and y.dtype.itemsize < 4
            return at_least_float32(x.to(y.device)) if lowered else y

        return super()._apply(moved, recurse)  # type: ignore[no-untyped-call]


Loss = Callable[[Any, Tensor, Tensor], Tensor]


def full_precision(forward: Loss) -> Loss:
    """A loss of student and teacher features outside of any autocast, in the student's type.

    Both are float32 at least, and the teacher's have no gradient.
    """

    @wraps(forward)
    def precise(self: Any, student: Tensor, teacher: Tensor) -> Tensor:
        student = at_least_float32(student)
        with without_autocast(student):
            return forward(self, student, teacher.detach().to(student.dtype))

    return precise
