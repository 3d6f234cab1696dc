"""What iterations report of themselves, kept on the device: reporting never waits for it."""

from torch import Tensor, stack

from gan_vkd.runtime import ranks
from gan_vkd.runtime.finite import Watch


class Meter:
    """Means of the reported numbers since the last record, and the first that was not finite.

    iteration: the present one, counted from 1.
    """

    def __init__(self) -> None:
        self.iteration = 0
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self._watch = Watch()

    def add(self, values: dict[str, Tensor]) -> None:
        """Numbers of this iteration, which must be finite."""
        for name, value in values.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
        self.watch(values)

    def watch(self, tensors: dict[str, Tensor]) -> None:
        """Tensors that must be finite and are not recorded."""
        self._watch.look(tensors, self.iteration)

    def take(self) -> dict[str, float]:
        """The means since the last call, over all ranks; this waits for the device."""
        names = list(self.sums)
        if not names:
            return {}
        means = stack([self.sums[n] / self.counts[n] for n in names])
        self.sums, self.counts = {}, {}
        return dict(zip(names, ranks.mean(means).tolist(), strict=True))

    def fault(self) -> tuple[str, int] | None:
        """The first tensor of any rank that was not finite, and its iteration; this waits too."""
        faults = [fault for fault in ranks.all_parts(self._watch.fault()) if fault]
        return min(faults, key=lambda fault: fault[1], default=None)
