"""Maps from the student's feature space to the teacher's.

The orthogonal projection (Miles, Elezi and Deng, CVPR 2024, section 3.2) keeps every pairwise inner
product of the student's features, so it can neither distort nor replace what the student learns.
The other maps serve for comparison.
"""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from gan_vkd.distill.precision import Precise, without_autocast
from gan_vkd.distill.retraction import step_along
from gan_vkd.runtime.registry import Registry


def geodesic(base: Tensor, tangent: Tensor, thin: bool | None = None) -> Tensor:
    """expm(A) P0 with the skew-symmetric A = X P0^T - P0 X^T: from frame P0 along the tangent X.

    The columns of P0 and of M = X - P0 P0^T X span an invariant subspace of A. With
    S = P0^T X - X^T P0 and E = expm([[S, -M^T M], [I, 0]]) the result is therefore
    [P0, M] E[:, :k]: the exponential is of size 2k x 2k instead of n x n. For P0 = [I; 0] the
    result is the first k columns of the exponential of [[X1 - X1^T, -X2^T], [X2, 0]].
    `torch.linalg.matrix_exp` synchronises on CUDA; `step_along` does not.

    Args:
        base: P0 (n, k), orthonormal columns.
        tangent: X (n, k), any matrix.
        thin: True for the exponential of size 2k, False for the one of size n, None for the smaller
            of the two.

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

    A = U V^T has rank 2k, so by Woodbury's identity the linear system is of size 2k x 2k.
    """
    u = torch.cat([tangent, base], dim=1)
    v = torch.cat([base, -tangent], dim=1)
    unit = torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
    return base + u @ torch.linalg.solve(unit - v.T @ u / 2, v.T @ base)


def polish(frame: Tensor) -> Tensor:
    """One Newton-Schulz step towards the nearest orthonormal frame: an error e becomes O(e^2)."""
    return 1.5 * frame - 0.5 * frame @ (frame.T @ frame)


def canonical_frame(n: int, k: int) -> Tensor:
    """The first k columns of the identity, [I; 0], shape (n, k)."""
    return torch.eye(n)[:, :k].contiguous()


def random_frame(n: int, k: int) -> Tensor:
    """Random orthonormal columns (n, k), uniform on the Stiefel manifold, by torch's global RNG."""
    q, r = torch.linalg.qr(torch.randn(n, k))
    return polish(q * r.diagonal().sign())


class Projection(Precise):
    """Base class of the maps from features (..., student_width) to (..., teacher_width).

    Raises:
        ValueError: a width is below one.
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

    If student_width <= teacher_width, P has orthonormal columns and preserves inner products;
    otherwise it has orthonormal rows. P is computed from parameters and buffers in every forward.

    Args:
        student_width: ds, the width of the input features.
        teacher_width: dt, the width of the output features.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        self.columns, self.rows = sorted((student_width, teacher_width))

    def frame(self) -> Tensor:
        """Matrix (rows, columns) of orthonormal columns, differentiable in the parameters."""
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

    The optimiser updates a tangent X, which is zero in every forward. There P is the first-order
    expansion of expm(X P0^T - P0 X^T) P0 (`geodesic`): at X = 0 it has the same value P0 and the
    same gradient, without differentiating through an exponential. After the optimiser's step,
    `retract` sets P0 to the exponential itself and X to zero (a dynamic trivialisation,
    Lezcano-Casado, NeurIPS 2019). The optimiser's moments are kept unchanged. Forward, backward and
    retraction do not synchronise on CUDA.

    Raises:
        RuntimeError: a forward is called while X is not zero, so that P would not be orthonormal.
            On a GPU this is an asynchronous device-side assertion.
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
        """Moves P0 along X, by half a turn at most, and sets X to zero; if X is zero, no change."""
        with without_autocast(self.base):
            moved = polish(step_along(self.base, self.tangent))
        self.base.copy_(torch.where(self.tangent.any(), moved, self.base))
        self.tangent.zero_()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.retract()  # in case the checkpoint was written between step and retraction

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Precise":
        before = self.base.dtype
        super()._apply(fn, recurse)
        if self.base.dtype != before:
            self.base.copy_(polish(self.base))
        return self


def retract(module: nn.Module | None) -> None:
    """Retracts every OrthogonalProjection in a module; call it after each optimizer.step()."""
    for part in module.modules() if module is not None else ():
        if isinstance(part, OrthogonalProjection):
            part.retract()


@PROJECTIONS.register("orthogonal_fixed")
class FixedProjection(FrameProjection):
    """A fixed random frame, uniform on the Stiefel manifold."""

    base: Tensor

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        self.register_buffer("base", random_frame(self.rows, self.columns))

    def frame(self) -> Tensor:
        return self.base


class TangentProjection(FrameProjection):
    """Base class: P is a function of P0 = [I; 0] and an unconstrained tangent X, the parameter."""

    base: Tensor

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        n, k = self.rows, self.columns
        self.tangent = nn.Parameter(torch.randn(n, k) / n**0.5)
        self.register_buffer("base", canonical_frame(n, k))


@PROJECTIONS.register("orthogonal_static")
class StaticProjection(TangentProjection):
    """P = expm(X P0^T - P0 X^T) P0 with P0 = [I; 0], as published.

    For methods that need P as a function of a parameter alone (line searches, weight averages).
    Every forward synchronises on CUDA.
    """

    def frame(self) -> Tensor:
        return geodesic(self.base, self.tangent)


@PROJECTIONS.register("orthogonal_full")
class FullExponentialProjection(FrameProjection):
    """P = expm(W - W^T)[:, :ds] with an unconstrained W (n x n), in the form of the publication.

    Every forward synchronises on CUDA.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        self.weight = nn.Parameter(torch.randn(self.rows, self.rows) / (2 * self.rows) ** 0.5)

    def frame(self) -> Tensor:
        return torch.linalg.matrix_exp(self.weight - self.weight.T)[:, : self.columns]


@PROJECTIONS.register("cayley")
class CayleyProjection(TangentProjection):
    """P = (I - A/2)^-1 (I + A/2) [I; 0] with A = X [I 0] - [I; 0] X^T.

    Every forward synchronises on CUDA.
    """

    def frame(self) -> Tensor:
        return cayley(self.base, self.tangent)


@PROJECTIONS.register("householder")
class HouseholderProjection(FrameProjection):
    """P is the product of ds Householder reflections, by torch.linalg.householder_product.

    Reaches almost every frame, but gradient descent can end in poor local minima.
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
    """Two linear layers with a ReLU between them; the hidden width is the teacher's."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        hidden = nn.Linear(student_width, teacher_width)
        self.layers = nn.Sequential(hidden, nn.ReLU(), nn.Linear(teacher_width, teacher_width))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


@PROJECTIONS.register("identity")
class IdentityProjection(Projection):
    """Returns the features unchanged.

    Raises:
        ValueError: the widths differ.
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
