"""Numbers that are not finite: found at the iteration where they appear, without waiting for it."""

import torch
from torch import Tensor


class Watch:
    """The first iteration at which each of some named tensors was not finite, on their device."""

    def __init__(self) -> None:
        self.first: dict[tuple[str, ...], Tensor] = {}

    @torch.no_grad()
    def look(self, tensors: dict[str, Tensor], iteration: int) -> None:
        """Never waits for the device. The same names should come together at every call."""
        if not tensors:
            return
        names = tuple(tensors)
        norms = torch._foreach_norm([tensor.detach() for tensor in tensors.values()])
        finite = torch.stack([norm.double() for norm in norms]).isfinite()
        before = self.first.get(names)
        if before is None:
            before = torch.full((len(names),), -1, device=finite.device)
        self.first[names] = torch.where((before < 0) & ~finite, iteration, before)

    def fault(self) -> tuple[str, int] | None:
        """The tensor that was not finite first and its iteration; this waits for the device.

        Of several at one iteration, the one that was looked at first.
        """
        found = [
            (name, iteration)
            for names, first in self.first.items()
            for name, iteration in zip(names, first.tolist(), strict=True)
            if iteration >= 0
        ]
        return min(found, key=lambda pair: pair[1], default=None)
