"""Running covariances and a transform that is recomputed from them at intervals."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gan_vkd.distill.normalization.spectrum import effective_rank
from gan_vkd.distill.normalization.statistics import Moments, RunningStatistics, Statistics


class RunningCovariance(RunningStatistics):
    """Base class of (z - mean) W, where W is computed from a decomposition of the covariance.

    W is block-diagonal over groups of neighbouring dimensions. The running covariance is decomposed
    after every `every` updates, and before the first `every` at each power of two, since the
    statistics change fastest at the start. With `statistics = "batch"` the covariance of each batch
    is decomposed.

    Args:
        width: d.
        momentum, eps, statistics, extra: as in RunningStatistics; each group has the same number of
            extra columns, ordered by group.
        every: number of updates between two decompositions.
        groups: number of groups, of d / groups dimensions each.
    """

    updates: Tensor
    transform: Tensor

    def __init__(
        self,
        width: int,
        *,
        momentum: float = 0.0,
        eps: float = 1e-5,
        statistics: Statistics = "running",
        every: int = 100,
        groups: int = 1,
        extra: int = 0,
    ) -> None:
        super().__init__(width, momentum=momentum, eps=eps, statistics=statistics, extra=extra)
        RunningCovariance.check(
            momentum=momentum, eps=eps, statistics=statistics, every=every, groups=groups
        )
        if width % groups:
            raise ValueError(f"groups must divide the width {width}, got {groups}")
        self.every, self.groups, self.size = every, groups, width // groups
        side = (width + extra) // groups
        self._updates = 0  # copy of the buffer, read without a device synchronisation
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("second", torch.zeros(groups, side, side, dtype=torch.float64))
        unit = torch.eye(self.size, dtype=torch.float64)
        self.register_buffer("transform", unit.repeat(groups, 1, 1))

    @classmethod
    def check(cls, **options: Any) -> None:
        super().check(**options)
        every, groups = options["every"], options.get("groups", 1)
        if every < 1 or groups < 1:
            raise ValueError(f"every and groups must be positive, got {every}, {groups}")

    def _grouped(self, features: Tensor) -> Tensor:
        """(B, groups * n) -> (groups, B, n)."""
        return features.unflatten(1, (self.groups, -1)).transpose(0, 1)

    def _central(self, centred: Tensor) -> Tensor:
        grouped = self._grouped(centred[:, : self.width])
        if centred.shape[1] > self.width:
            grouped = torch.cat([grouped, self._grouped(centred[:, self.width :])], 2)
        return grouped.mT @ grouped

    def covariance_of(self, moments: Moments) -> Tensor:
        """Covariance (groups, d / groups, d / groups), without the extra columns."""
        return moments.second[:, : self.size, : self.size]

    @property
    def effective_rank(self) -> Tensor:
        """Effective rank of the running covariance of each group, (groups,)."""
        return effective_rank(torch.linalg.eigvalsh(self.covariance_of(self.moments)))

    def update(self, features: Tensor) -> Moments:
        batch, due = super().update(features), self._is_due(self._updates + 1)
        self.updates += 1
        self.count_update()
        if due:
            self.decompose()
        return batch

    def _is_due(self, updates: int) -> bool:
        """Whether the covariance is decomposed after this number of updates."""
        settling = updates < self.every and updates.bit_count() == 1
        return settling or updates % self.every == 0

    @property
    def decomposes_next(self) -> bool:
        """Whether the next forward in training mode decomposes, which synchronises on a GPU."""
        return not self._fitted and self._is_due(self._updates + 1)

    def count_update(self) -> None:
        """Counts an update on the host; call it after an update that a CUDA graph has replayed."""
        self._updates += 1

    def recount_updates(self) -> None:
        """Reads the number of updates from the buffer."""
        self._updates = int(self.updates)

    def fit(self, batches: Iterable[Tensor]) -> None:
        super().fit(batches)
        self.decompose()

    @torch.no_grad()
    def decompose(self) -> None:
        """Recomputes the transform W from the current running covariance."""
        self.transform.copy_(self._transform_of(self.moments))

    def _running_transform(self) -> Tensor:
        return self.transform

    def _apply_transform(self, centred: Tensor, transform: Tensor) -> Tensor:
        return (self._grouped(centred) @ transform).transpose(0, 1).flatten(1)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.recount_updates()
