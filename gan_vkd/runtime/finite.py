"""Detection of NaN and infinity with the iteration of their appearance, without synchronising."""

import torch
from torch import Tensor


def finite(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the finite values (n,) of each tensor that has any."""
    values = {name: tensor[tensor.isfinite()] for name, tensor in tensors.items()}
    return {name: found for name, found in values.items() if len(found)}


class Watch:
    """Tracks, on the device, the first iteration at which each named tensor was not finite."""

    def __init__(self) -> None:
        self.first: dict[tuple[str, ...], Tensor] = {}

    @torch.no_grad()
    def look(self, tensors: dict[str, Tensor], iteration: Tensor | int) -> None:
        """Checks the tensors of an iteration. Does not synchronise with the device.

        Tensors that are passed together once should be passed together at every call.
        """
        if not tensors:
            return
        names = tuple(tensors)
        norms = torch._foreach_norm([tensor.detach() for tensor in tensors.values()])
        finite = torch.stack([norm.double() for norm in norms]).isfinite()
        if names not in self.first:
            self.first[names] = torch.full((len(names),), -1, device=finite.device)
        first = self.first[names]
        first.copy_(torch.where((first < 0) & ~finite, iteration, first))

    def clear(self) -> None:
        """Forgets what was not finite."""
        for first in self.first.values():
            first.fill_(-1)

    def fault(self) -> tuple[str, int] | None:
        """Returns the first tensor that was not finite and its iteration, or None. Synchronises.

        Of several tensors at one iteration, it is the one that was checked first.
        """
        found = [
            (name, iteration)
            for names, first in self.first.items()
            for name, iteration in zip(names, first.tolist(), strict=True)
            if iteration >= 0
        ]
        return min(found, key=lambda pair: pair[1], default=None)
