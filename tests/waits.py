"""Operations that synchronise with a GPU, found on the CPU."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default,  # item(), int(), bool(), an if
    aten.equal.default,
    aten.allclose.default,
    aten.lift_fresh.default,  # torch.tensor and new_tensor: a copy from pageable memory
    # the shape of the result depends on values
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
    # check the result on the host: inv, solve, cholesky
    aten._linalg_check_errors.default,
    # check or choose the algorithm on the host inside, or compute there
    aten._linalg_eigh.default,
    aten._linalg_svd.default,
    aten.linalg_eig.default,
    aten.linalg_lstsq.default,
    aten.linalg_pinv.atol_rtol_tensor,
    aten.linalg_matrix_exp.default,
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


def waits(func: Any, args: Any) -> bool:
    """Whether an operation synchronises with a GPU."""
    # of an access by a mask, CUDA counts the true values first
    masks = args[1] if func in INDEXING else ()
    return func in WAITS or any(x is not None and x.dtype == torch.bool for x in masks)


class NoWaits(TorchDispatchMode):
    """Raises at operations that synchronise with a GPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if waits(func, args):
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))
