"""Logged values, accumulated on the device: adding a value does not synchronise."""

from typing import Any

from torch import Tensor, stack

from gan_vkd.runtime import ranks
from gan_vkd.runtime.finite import Watch


class Meter:
    """Means of logged values since the last record, and a check that they are finite.

    iteration: the current one, counted from 1.
    """

    def __init__(self) -> None:
        self.iteration = 0
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self._watch = Watch()

    def add(self, values: dict[str, Tensor]) -> None:
        """Adds values to log of the current iteration, which must be finite."""
        for name, value in values.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.watch(values)

    def watch(self, tensors: dict[str, Tensor]) -> None:
        """Checks that tensors are finite, without logging them."""
        self._watch.look(tensors, self.iteration)

    def take(self) -> dict[str, float]:
        """Returns the means since the last call, over all ranks. Synchronises with the device."""
        names = list(self.sums)
        if not names:
            return {}
        means = stack([self.sums[n] / self.counts[n] for n in names])
        self.sums, self.counts = {}, {}
        return dict(zip(names, ranks.mean(means).tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        """What `take` would give means of, for a checkpoint: a sum and a count by name."""
        names = list(self.sums)
        if not names:
            return {}
        sums = ranks.mean(stack([self.sums[n] for n in names])).unbind()
        pairs = zip(names, sums, strict=True)
        return {name: {"sum": total, "count": self.counts[name]} for name, total in pairs}

    def load_state(self, state: dict[str, Any], device: str) -> None:
        """Goes on from a `state`, so that a resumed run records the means that it would have.

        Raises:
            TypeError, ValueError, KeyError: not a state.
        """
        self.sums = {name: part["sum"].to(device).view(()) for name, part in state.items()}
        self.counts = {name: int(part["count"]) for name, part in state.items()}

    def fault(self) -> tuple[str, int] | None:
        """Returns the first tensor that was not finite on any rank, with its iteration, or None."""
        faults = [fault for fault in ranks.all_parts(self._watch.fault()) if fault]
        return min(faults, key=lambda fault: fault[1], default=None)
