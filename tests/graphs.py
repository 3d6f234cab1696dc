"""A stand-in for CUDA graphs on the CPU: records the operations of a call and repeats them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.waits import waits


class Recording(TorchDispatchMode):
    """Records operations with the tensors that they read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, dict[str, Any], list[Any]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if waits(func, args):  # a capture on a GPU is refused there
            raise RuntimeError(f"{func} cannot be captured")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, tree_leaves(result)))
        return result

    @torch.no_grad()
    def repeat(self) -> None:
        """Repeats the operations on the same tensors, as a CUDA graph does."""
        for func, args, kwargs, before in self.calls:
            results = tree_leaves(func(*args, **kwargs))
            if any(value.alias_info is not None for value in func._schema.returns):
                continue  # a view, or an operation in place: its memory is known already
            for known, now in zip(before, results, strict=True):
                if isinstance(known, Tensor):
                    known.copy_(now)


def recorded(function: Callable[[], None]) -> Callable[[], None]:
    """Takes the place of `gan_vkd.runtime.graphs.cuda_graph`.

    The operations are executed while they are recorded, so the first replay does nothing.
    """
    with Recording() as recording:
        function()
    replays = iter([lambda: None])

    def replay() -> None:
        next(replays, recording.repeat)()

    return replay
