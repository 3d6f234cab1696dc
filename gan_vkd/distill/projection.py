"""Maps from the student's feature space to the teacher's.

The orthogonal projection (Miles, Elezi and Deng, CVPR 2024, section 3.2) keeps every pairwise inner
product of the student's features, so it can neither distort nor replace what the student learns.
The other maps are here to compare it with.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from gan_vkd.distill.precision import Precise, without_autocast
from gan_vkd.runtime.registry import Registry


def geodesic(base: Tensor, tangent: Tensor, thin: bool | None = None) -> Tensor:
    """expm(A) P0 with the skew-symmetric A = X P0^T - P0 X^T: from frame P0 along the tangent X.

    The columns of P0 and of M = X - P0 P0^T X span a space that A does not leave, so that with
    S = P0^T X - X^T P0 and E = expm([[S, -M^T M], [I, 0]]) the result is [P0, M] E[:, :k]: an
    exponential of 2k x 2k instead of n x n. For P0 = [I; 0] this is the first k columns of the
    exponential of [[X1 - X1^T, -X2^T], [X2, 0]].

    Args:
        base: P0 (n, k), orthonormal columns.
        tangent: X (n, k), any matrix.
        thin: which of the two exponentials; None takes the cheaper one (thin where 2k < n).

    Returns:
        (n, k) with orthonormal columns, differentiable in both arguments.
    """
    n, k = base.shape
    if thin if thin is not None else 2 * k < n:
        along = base.T @ tangent
        beside = tangent - base @ along
        top = torch.cat([along - along.T, -beside.T @ beside], dim=1)
        unit = torch.eye(k, dtype=base.dtype, device=base.device)
        bottom = torch.cat([unit, torch.zeros_like(unit)], dim=1)
        e = torch.linalg.matrix_exp(torch.cat([top, bottom]))[:, :k]
        return base @ e[:k] + beside @ e[k:]
    a = tangent @ base.T
    return torch.linalg.matrix_exp(a - a.T) @ base


def cayley(base: Tensor, tangent: Tensor) -> Tensor:
    """(I - A/2)^-1 (I + A/2) P0 for the A of `geodesic` (Wen and Yin 2013, section 2.2).

    A = U V^T has rank 2k, so by Woodbury's identity the solve is of 2k x 2k.
    """
    u = torch.cat([tangent, base], dim=1)
    v = torch.cat([base, -tangent], dim=1)
    unit = torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
    return base + u @ torch.linalg.solve(unit - v.T @ u / 2, v.T @ base)


def polish(frame: Tensor) -> Tensor:
    """One Newton-Schulz step towards the nearest orthonormal frame: an error e becomes O(e^2)."""
    return 1.5 * frame - 0.5 * frame @ (frame.T @ frame)


def canonical_frame(n: int, k: int) -> Tensor:
    """[I; 0], shape (n, k)."""
    return torch.eye(n)[:, :k].contiguous()


def random_frame(n: int, k: int) -> Tensor:
    """Orthonormal columns (n, k), uniform over the Stiefel manifold, from torch's generator."""
    q, r = torch.linalg.qr(torch.randn(n, k))
    return polish(q * r.diagonal().sign())


class Projection(Precise):
    """Base of all maps: features (..., student_width) -> (..., teacher_width).

    Raises:
        ValueError: a width below one.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        if student_width < 1 or teacher_width < 1:
            raise ValueError(
                f"a projection needs positive widths, got student {student_width}, "
                f"teacher {teacher_width}"
            )
        self.student_width, self.teacher_width = student_width, teacher_width

    def extra_repr(self) -> str:
        return f"{self.student_width}, {self.teacher_width}"


PROJECTIONS: Registry[Projection] = Registry("projection")


class FrameProjection(Projection):
    """z -> z P^T with an orthonormal P (teacher_width x student_width), in float32 or better.

    Columns of P are orthonormal when student_width <= teacher_width (inner products are kept), rows
    otherwise. P is a function of the parameters and buffers, computed in every forward.

    Args:
        student_width: ds, the width of the features that come in.
        teacher_width: dt, the width of the features that go out.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        self.columns, self.rows = sorted((student_width, teacher_width))

    def frame(self) -> Tensor:
        """Orthonormal columns (rows, columns), differentiable in the parameters."""
        raise NotImplementedError

    def matrix(self) -> Tensor:
        """P, shape (teacher_width, student_width), differentiable in the parameters."""
        with without_autocast(next(chain(self.parameters(), self.buffers()))):
            frame = self.frame()
        return frame if self.student_width <= self.teacher_width else frame.T

    def forward(self, features: Tensor) -> Tensor:
        p = self.matrix()
        with without_autocast(features):
            return features.to(p.dtype) @ p.T


@PROJECTIONS.register("orthogonal")
class OrthogonalProjection(FrameProjection):
    """P = P0, a buffer that `retract` moves along the published matrix exponential.

    The optimiser steps a tangent X that is zero at rest. In a forward, P is the first-order term of
    expm(X P0^T - P0 X^T) P0 (`geodesic`): at X = 0 it has the same value P0 and the same gradient,
    and nothing is differentiated through an exponential. After the optimiser's step, `retract` sets
    P0 to the exponential itself and X to zero (a dynamic trivialisation, Lezcano-Casado, NeurIPS
    2019). The optimiser's moments carry over as they are.

    Raises:
        RuntimeError: a forward with X other than zero, since its P is not orthonormal. On a GPU,
            which is not waited for, it is a device-side assertion.
    """

    base: Tensor

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        self.tangent = nn.Parameter(torch.zeros(self.rows, self.columns))
        self.register_buffer("base", random_frame(self.rows, self.columns))

    def frame(self) -> Tensor:
        base, tangent = self.base, self.tangent
        torch._assert_async(
            ~tangent.any(), "an OrthogonalProjection needs retract() after each optimizer.step()"
        )
        return base + (tangent - base @ (tangent.T @ base))

    @torch.no_grad()
    def retract(self) -> None:
        """Moves P0 along X and sets X to zero; with X = 0, nothing changes."""
        with without_autocast(self.base):
            moved = polish(geodesic(self.base, self.tangent))
        self.base.copy_(torch.where(self.tangent.any(), moved, self.base))
        self.tangent.zero_()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.retract()  # of a checkpoint that was written between step and retraction

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Precise":
        before = self.base.dtype
        super()._apply(fn, recurse)
        if self.base.dtype != before:
            self.base.copy_(polish(self.base))
        return self


def retract(module: nn.Module | None) -> None:
    """Moves the orthogonal projections in a module, if any: to be called after optimizer.step()."""
    for part in module.modules() if module is not None else ():
        if isinstance(part, OrthogonalProjection):
            part.retract()


@PROJECTIONS.register("orthogonal_fixed")
class FixedProjection(FrameProjection):
    """A random frame that is not trained, uniform over the Stiefel manifold."""

    base: Tensor

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        self.register_buffer("base", random_frame(self.rows, self.columns))

    def frame(self) -> Tensor:
        return self.base


class TangentProjection(FrameProjection):
    """P as a function of a free tangent X at P0 = [I; 0], in which all of P is."""

    base: Tensor

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        n, k = self.rows, self.columns
        self.tangent = nn.Parameter(torch.randn(n, k) / n**0.5)
        self.register_buffer("base", canonical_frame(n, k))


@PROJECTIONS.register("orthogonal_static")
class StaticProjection(TangentProjection):
    """P = expm(X P0^T - P0 X^T) P0 with P0 = [I; 0], as published.

    For optimisers that look at the parameter itself (line searches, averages of weights).
    """

    def frame(self) -> Tensor:
        return geodesic(self.base, self.tangent)


@PROJECTIONS.register("orthogonal_full")
class FullExponentialProjection(FrameProjection):
    """P = expm(W - W^T)[:, :ds] with all of W (n x n) free: the form as it was published."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        self.weight = nn.Parameter(torch.randn(self.rows, self.rows) / (2 * self.rows) ** 0.5)

    def frame(self) -> Tensor:
        return torch.linalg.matrix_exp(self.weight - self.weight.T)[:, : self.columns]


@PROJECTIONS.register("cayley")
class CayleyProjection(TangentProjection):
    """P = (I - A/2)^-1 (I + A/2) [I; 0] with A = X [I 0] - [I; 0] X^T."""

    def frame(self) -> Tensor:
        return cayley(self.base, self.tangent)


@PROJECTIONS.register("householder")
class HouseholderProjection(FrameProjection):
    """P is the product of ds Householder reflections, by torch's householder_product.

    Dense among the frames, but a descent can come to rest in poor local minima.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        self.reflectors = nn.Parameter(torch.randn(self.rows, self.columns))

    def frame(self) -> Tensor:
        below = self.reflectors.tril(-1)
        tau = 2 / (1 + below.square().sum(0))
        unit = torch.eye(self.rows, self.columns, dtype=below.dtype, device=below.device)
        return torch.linalg.householder_product(below + unit, tau)


@PROJECTIONS.register("linear")
class LinearProjection(Projection):
    """An unconstrained learnt linear map, as in FitNets (Romero et al., ICLR 2015)."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        self.linear = nn.Linear(student_width, teacher_width, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features)


@PROJECTIONS.register("mlp")
class MLPProjection(Projection):
    """Two layers with a rectifier between them, as wide as the teacher."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        hidden = nn.Linear(student_width, teacher_width)
        self.layers = nn.Sequential(hidden, nn.ReLU(), nn.Linear(teacher_width, teacher_width))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


@PROJECTIONS.register("identity")
class IdentityProjection(Projection):
    """No map at all.

    Raises:
        ValueError: unequal widths.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        if student_width != teacher_width:
            raise ValueError(
                f"the identity needs equal widths, got student {student_width}, "
                f"teacher {teacher_width}: choose orthogonal or linear"
            )

    def forward(self, features: Tensor) -> Tensor:
        return features
