"""Maps from the student's feature space to the teacher's.

The orthogonal projection (Miles, Elezi and Deng, CVPR 2024, section 3.2) keeps every pairwise inner
product of the student's features, so it can neither distort nor replace what the student learns.
"""

import torch
from torch import Tensor, nn


def orthonormal_columns(skew: Tensor, lower: Tensor) -> Tensor:
    """First k columns of the exponential of a skew-symmetric n x n matrix.

    The matrix is A = [[S, -M^T], [M, 0]] with S = skew - skew^T (k x k) and M = lower
    ((n - k) x k), which reaches every orthonormal n x k frame. Where 2k < n the exponential is
    taken of the 2k x 2k matrix G = [[S, -M^T M], [I, 0]]: the span of [I; 0] and [0; M] is
    invariant under A, and expm(A)[:, :k] = [E_top; M E_bottom] with E = expm(G)[:, :k]. Otherwise
    the full matrix is the cheaper one.

    Args:
        skew: (k, k), any matrix; only its antisymmetric part acts.
        lower: (n - k, k).

    Returns:
        (n, k) with orthonormal columns, in the type and on the device of the arguments.
    """
    k, rest = skew.shape[0], lower.shape[0]
    s = skew - skew.T
    if k < rest:
        top = torch.cat([s, -lower.T @ lower], dim=1)
        bottom = torch.cat([torch.eye(k, dtype=s.dtype, device=s.device), torch.zeros_like(s)], 1)
        e = torch.linalg.matrix_exp(torch.cat([top, bottom]))[:, :k]
        return torch.cat([e[:k], lower @ e[k:]])
    top = torch.cat([s, -lower.T], dim=1)
    bottom = torch.cat([lower, lower.new_zeros(rest, rest)], dim=1)
    return torch.linalg.matrix_exp(torch.cat([top, bottom]))[:, :k]


def _require_widths(student_width: int, teacher_width: int) -> None:
    if student_width < 1 or teacher_width < 1:
        raise ValueError(
            f"a projection needs positive widths, got student {student_width}, "
            f"teacher {teacher_width}"
        )


class OrthogonalProjection(nn.Module):
    """z -> z P^T with P (teacher_width x student_width) orthonormal.

    Columns of P are orthonormal when student_width <= teacher_width (inner products are kept),
    rows otherwise. P is a matrix exponential and computed in float32 or better under any autocast.

    Args:
        student_width: ds, the width of the features that come in.
        teacher_width: dt, the width of the features that go out.

    Raises:
        ValueError: a width below one.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        _require_widths(student_width, teacher_width)
        self.student_width, self.teacher_width = student_width, teacher_width
        k, n = sorted((student_width, teacher_width))
        self.skew = nn.Parameter(torch.randn(k, k) / (2 * n) ** 0.5)
        self.lower = nn.Parameter(torch.randn(n - k, k) / n**0.5)

    def matrix(self) -> Tensor:
        """P, shape (teacher_width, student_width)."""
        with torch.autocast(self.skew.device.type, enabled=False):
            p = orthonormal_columns(_at_least_float32(self.skew), _at_least_float32(self.lower))
        return p if self.student_width <= self.teacher_width else p.T

    def forward(self, features: Tensor) -> Tensor:
        """(..., student_width) -> (..., teacher_width)."""
        p = self.matrix()
        with torch.autocast(features.device.type, enabled=False):
            return features.to(p.dtype) @ p.T

    def extra_repr(self) -> str:
        return f"{self.student_width}, {self.teacher_width}"


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class LinearProjection(nn.Linear):
    """An unconstrained learnt linear map, as in FitNets (Romero et al., ICLR 2015)."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        _require_widths(student_width, teacher_width)
        super().__init__(student_width, teacher_width, bias=False)


class IdentityProjection(nn.Module):
    """No map at all: needs equal widths."""

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        _require_widths(student_width, teacher_width)
        if student_width != teacher_width:
            raise ValueError(
                f"the identity needs equal widths, got student {student_width}, "
                f"teacher {teacher_width}: choose orthogonal or linear"
            )

    def forward(self, features: Tensor) -> Tensor:
        return features


PROJECTIONS: dict[str, type[nn.Module]] = {
    "orthogonal": OrthogonalProjection,
    "linear": LinearProjection,
    "identity": IdentityProjection,
}


def make_projection(name: str, student_width: int, teacher_width: int) -> nn.Module:
    """A projection by name: one of PROJECTIONS."""
    return PROJECTIONS[name](student_width, teacher_width)
