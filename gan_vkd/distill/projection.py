"""Maps from the student's feature space to the teacher's.

The orthogonal projection (Miles, Elezi and Deng, CVPR 2024, section 3.2) keeps every pairwise inner
product of the student's features, so it can neither distort nor replace what the student learns.
The other maps are here to compare it with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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


@dataclass
class _Made:
    """A frame, the parameters' values and state it was made from, and its gradient's way back."""

    frame: Tensor
    values: list[Tensor]
    state: list[Any]
    pull_back: Callable[[Tensor], Sequence[Tensor]]


class _Replay(torch.autograd.Function):
    """A frame made once, as a function of its parameters for any number of backward passes."""

    @staticmethod
    def forward(
        ctx: Any, projection: "FrameProjection", made: _Made, *parameters: Tensor
    ) -> Tensor:
        ctx.projection, ctx.made = projection, made
        return made.frame.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.projection._differentiated = True
        return (None, None, *ctx.made.pull_back(gradient))


class FrameProjection(Projection):
    """z -> z P^T with an orthonormal P (teacher_width x student_width), in float32 or better.

    Columns of P are orthonormal when student_width <= teacher_width (inner products are kept), rows
    otherwise. P is made once an optimiser step, when a parameter has changed, and reused by every
    forward and backward in between. Parameters are watched by their version counters; a writer that
    goes around those (`p.data.add_`) is noticed after the next backward, by comparing values.

    Args:
        student_width: ds, the width of the features that come in.
        teacher_width: dt, the width of the features that go out.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        self.columns, self.rows = sorted((student_width, teacher_width))
        self._made: _Made | None = None
        self._differentiated = False

    def frame(self, *parameters: Tensor) -> Tensor:
        """Orthonormal columns (rows, columns) as a differentiable function of the parameters."""
        raise NotImplementedError

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def matrix(self) -> Tensor:
        """P, shape (teacher_width, student_width), once differentiable in the parameters."""
        parameters = list(self.parameters())
        with without_autocast(parameters[0]):
            if torch.is_inference_mode_enabled():
                frame = self.frame(*parameters)
            else:
                if self._made is None or self._is_stale(self._made):
                    self._made = self._make()
                self._differentiated = False
                frame = _Replay.apply(self, self._made, *parameters)
        return frame if self.student_width <= self.teacher_width else frame.T

    def forward(self, features: Tensor) -> Tensor:
        p = self.matrix()
        with without_autocast(features):
            return features.to(p.dtype) @ p.T

    def _make(self) -> _Made:
        leaves = [p.detach().clone().requires_grad_() for p in self.parameters()]
        with torch.enable_grad():
            frame = self.frame(*leaves)

        def pull_back(gradient: Tensor) -> Sequence[Tensor]:
            return torch.autograd.grad(frame, leaves, gradient, retain_graph=True)

        return _Made(frame, leaves, self._state(), pull_back)

    def _state(self) -> list[Any]:
        tensors = [*self.parameters(), *self.buffers()]
        state = [(t._version, t.data_ptr(), t.dtype, t.device) for t in tensors]
        return [self.training, *state]

    def _is_stale(self, made: _Made) -> bool:
        if made.state != self._state():
            return True
        pairs = zip(made.values, self.parameters(), strict=True)
        return self._differentiated and not all(torch.equal(a, b) for a, b in pairs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_made": None}  # a graph can be neither copied nor pickled


@PROJECTIONS.register("orthogonal")
class OrthogonalProjection(FrameProjection):
    """P = expm(X P0^T - P0 X^T) P0, the published matrix exponential in its thin form.

    With `rebase`, every step starts from the P reached so far: P0 <- P, X <- 0 (a dynamic
    trivialisation, Lezcano-Casado, NeurIPS 2019). The exponential's argument is then as small as
    one optimiser step and its derivative at X = 0 is dX - P0 dX^T P0, so that nothing is
    differentiated through an exponential. The optimiser's moments carry over as they are. Without
    it, P0 stays [I; 0] and all of P is in X, as published: for optimisers that look at the
    parameter itself (line searches, averages of weights).

    Args:
        student_width, teacher_width: ds and dt.
        rebase: whether P0 moves.
        thin: which exponential, see `geodesic`.
    """

    base: Tensor

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        *,
        rebase: bool = True,
        thin: bool | None = None,
    ) -> None:
        super().__init__(student_width, teacher_width)
        n, k = self.rows, self.columns
        self.rebase, self.thin = rebase, thin
        self.tangent = nn.Parameter(torch.zeros(n, k) if rebase else torch.randn(n, k) / n**0.5)
        self.register_buffer("base", random_frame(n, k) if rebase else canonical_frame(n, k))

    def frame(self, *parameters: Tensor) -> Tensor:
        return geodesic(self.base, parameters[0], self.thin)

    def _make(self) -> _Made:
        if not (self.rebase and self.training):
            return super()._make()
        with torch.no_grad():
            moved = polish(geodesic(self.base, self.tangent, self.thin))
            self.base.copy_(torch.where(self.tangent.any(), moved, self.base))
            self.tangent.zero_()
        base = self.base.clone()

        def pull_back(gradient: Tensor) -> Sequence[Tensor]:
            return (gradient - base @ (gradient.T @ base),)

        return _Made(base, [self.tangent.detach().clone()], self._state(), pull_back)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Precise":
        before = self.base.dtype
        super()._apply(fn, recurse)
        if self.base.dtype != before:
            self.base.copy_(polish(self.base))
        return self


@PROJECTIONS.register("orthogonal_static")
def static_projection(student_width: int, teacher_width: int) -> OrthogonalProjection:
    """OrthogonalProjection with rebase=False."""
    return OrthogonalProjection(student_width, teacher_width, rebase=False)


@PROJECTIONS.register("orthogonal_fixed")
class FixedProjection(Projection):
    """A random frame that is not trained, uniform over the Stiefel manifold."""

    base: Tensor

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        columns, rows = sorted((student_width, teacher_width))
        self.register_buffer("base", random_frame(rows, columns))

    def matrix(self) -> Tensor:
        """P, shape (teacher_width, student_width)."""
        return self.base if self.student_width <= self.teacher_width else self.base.T

    def forward(self, features: Tensor) -> Tensor:
        with without_autocast(features):
            return features.to(self.base.dtype) @ self.matrix().T


@PROJECTIONS.register("orthogonal_full")
class FullExponentialProjection(FrameProjection):
    """P = expm(W - W^T)[:, :ds] with all of W (n x n) free: the form as it was published."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        self.weight = nn.Parameter(torch.randn(self.rows, self.rows) / (2 * self.rows) ** 0.5)

    def frame(self, *parameters: Tensor) -> Tensor:
        (weight,) = parameters
        return torch.linalg.matrix_exp(weight - weight.T)[:, : self.columns]


@PROJECTIONS.register("cayley")
class CayleyProjection(FrameProjection):
    """P = (I - A/2)^-1 (I + A/2) [I; 0] with A = X [I 0] - [I; 0] X^T."""

    base: Tensor

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        n, k = self.rows, self.columns
        self.tangent = nn.Parameter(torch.randn(n, k) / n**0.5)
        self.register_buffer("base", canonical_frame(n, k))

    def frame(self, *parameters: Tensor) -> Tensor:
        return cayley(self.base, parameters[0])


@PROJECTIONS.register("householder")
class HouseholderProjection(FrameProjection):
    """P is the product of ds Householder reflections, by torch's householder_product.

    Dense among the frames, but a descent can come to rest in poor local minima.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__(student_width, teacher_width)
        self.reflectors = nn.Parameter(torch.randn(self.rows, self.columns))

    def frame(self, *parameters: Tensor) -> Tensor:
        below = parameters[0].tril(-1)
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
