"""Logged values, accumulated on the device: adding a value does not synchronise."""

from typing import Any

import torch
from torch import Tensor

from gan_vkd.runtime import ranks
from gan_vkd.runtime.finite import Watch


class Meter:
    """Means of logged values since the last record, and a check that they are finite.

    Sums are updated in place, so that `add` and `watch` can be part of a captured step
    (gan_vkd/runtime/graphs.py) once they have been called with the same names.

    Args:
        device: of the values.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._iteration = torch.zeros((), dtype=torch.int64, device=device)
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._watch = Watch()

    def begin(self, iteration: int) -> None:
        """Sets the current iteration, counted from 1."""
        self._iteration.fill_(iteration)

    @torch.no_grad()
    def add(self, values: dict[str, Tensor]) -> None:
        """Adds values to log of the current iteration, which must be finite."""
        for name, value in values.items():
            if name not in self._sums:
                self._start(name, value)
            self._sums[name] += value
            self._counts[name] += 1
        self.watch(values)

    def _start(self, name: str, like: Tensor) -> None:
        self._sums[name] = torch.zeros((), dtype=like.dtype, device=self.device)
        self._counts[name] = torch.zeros((), dtype=torch.int64, device=self.device)

    def watch(self, tensors: dict[str, Tensor]) -> None:
        """Checks that tensors are finite, without logging them."""
        self._watch.look(tensors, self._iteration)

    def take(self) -> dict[str, float]:
        """Returns the means since the last call, over all ranks. Synchronises with the device."""
        counts = self._counted()
        if not counts:
            return {}
        means = torch.stack([self._sums[name] / self._counts[name] for name in counts])
        self._clear()
        return dict(zip(counts, ranks.mean(means).tolist(), strict=True))

    def _counted(self) -> dict[str, int]:
        """The number of values by name, of the names that have any. Synchronises."""
        if not self._counts:
            return {}
        counts = torch.stack(list(self._counts.values())).tolist()
        return {name: n for name, n in zip(self._counts, counts, strict=True) if n}

    def _clear(self) -> None:
        for part in (*self._sums.values(), *self._counts.values()):
            part.zero_()

    def state(self) -> dict[str, Any]:
        """What `take` would give means of, for a checkpoint: a sum and a count by name."""
        counts = self._counted()
        if not counts:
            return {}
        sums = ranks.mean(torch.stack([self._sums[name] for name in counts])).unbind()
        pairs = zip(counts.items(), sums, strict=True)
        return {name: {"sum": total, "count": count} for (name, count), total in pairs}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from a `state`, so that a resumed run records the means that it would have.

        Raises:
            TypeError, ValueError, KeyError: not a state.
        """
        self._clear()
        self._watch.clear()
        for name, part in state.items():
            total, count = part["sum"].view(()), int(part["count"])
            if name not in self._sums:
                self._start(name, total)
            self._sums[name].copy_(total)
            self._counts[name].fill_(count)

    def fault(self) -> tuple[str, int] | None:
        """Returns the first tensor that was not finite on any rank, with its iteration, or None."""
        faults = [fault for fault in ranks.all_parts(self._watch.fault()) if fault]
        return min(faults, key=lambda fault: fault[1], default=None)
