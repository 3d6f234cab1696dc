"""The student features: the discriminator's pooled features as they are given to the projection.

An orthogonal projection preserves inner products (Miles, Elezi and Deng, CVPR 2024, section 3.2).
`feature` determines which inner products of the pooled features z that covers:

- pooled: all of z.
- mean: all of z, up to one constant factor.
- head, plain_head: those of the head's output, but not those of z, since the head is a learnt
  linear map.

`scaling` is applied afterwards:

- none: as above.
- batch: the inner products of the centred features up to one factor, hence also their distances.
- learnt: the same, with a learnt centre and a learnt factor.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gan_vkd.distill.head import Head
from gan_vkd.distill.precision import Precise, at_least_float32, without_autocast
from gan_vkd.runtime import across

MOMENTUM = 0.1  # of the running statistics, as in batch norm
EPS = 1e-5


class BatchScaling(Precise):
    """Centres the features and divides them by one scale, so that the mean variance is one.

    In training mode the statistics are those of the batch and are differentiated, as in batch norm,
    so that the loss cannot be lowered by shrinking the features. With a process group they are
    taken over the batches of all ranks, which must be of equal size. In eval mode running averages
    are used. All dimensions share one scale, since a scale per dimension would change the
    similarities.

    Args:
        width: d, the width of the features.
    """

    least_batch = 2
    mean: Tensor
    variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        """(B, d) -> (B, d)."""
        mean, variance = self.mean, self.variance
        if self.training:
            mean = across.mean(features.mean(0))
            variance = across.mean((features - mean).square().mean())
            with torch.no_grad():
                self.mean.lerp_(mean, MOMENTUM)
                self.variance.lerp_(variance, MOMENTUM)
        return (features - mean) * (variance + EPS).rsqrt()


class LearntScaling(Precise):
    """One learnt scale for all dimensions and a learnt bias, as in VkD's detection code.

    Args:
        width: d, the width of the features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, features: Tensor) -> Tensor:
        """(B, d) -> (B, d)."""
        return self.scale * features + self.bias


SCALINGS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda width: nn.Identity(),
    "batch": BatchScaling,
    "learnt": LearntScaling,
}


class StudentFeature(Precise):
    """Maps pooled features to those that the loss is called with, in float32 or better.

    Args:
        width: ds, the width of the pooled features.
        teacher_width: dt, the width of the head's output.
        feature: "pooled", "mean", "head" (spectrally normalised) or "plain_head".
        scaling: a name in SCALINGS.
        positions: number of positions that the pooling sums over; "mean" divides by it.
    """

    def __init__(
        self,
        width: int,
        teacher_width: int,
        *,
        feature: str = "pooled",
        scaling: str = "none",
        positions: int = 1,
    ) -> None:
        super().__init__()
        self.head: nn.Module | None = None
        self.width, self.factor = width, 1.0
        if feature in ("head", "plain_head"):
            self.head = Head(width, teacher_width, spectral=feature == "head")
            self.width = teacher_width
        elif feature == "mean":
            self.factor = 1 / positions
        self.scaling = SCALINGS[scaling](self.width)

    @property
    def least_batch(self) -> int:
        """Smallest batch size that the scaling needs."""
        return getattr(self.scaling, "least_batch", 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ds) -> the features before and after scaling, (B, width) each."""
        read = at_least_float32(features)
        with without_autocast(features):
            read = read * self.factor if self.head is None else self.head(read)
            return read, self.scaling(read)
