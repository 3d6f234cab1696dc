"""What of the student is distilled: its pooled features, and how they reach the projection.

Which similarities of the pooled features z an orthogonal projection then keeps (Miles, Elezi and
Deng, CVPR 2024, section 3.2):

- pooled: every inner product of z.
- mean: every inner product of z up to one constant factor.
- head, plain_head: every inner product of the head's output; of z none, as the head is a linear map
  that is learnt.

and, of what is scaled,

- none: as above.
- batch: every inner product of the centred features up to one factor, so their distances too.
- learnt: the same, around a centre and with a factor that are learnt.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gan_vkd.distill.head import Head
from gan_vkd.distill.precision import Precise, at_least_float32, without_autocast
from gan_vkd.runtime.across import mean_over_ranks

MOMENTUM = 0.1  # of the running statistics, as in batch norm
EPS = 1e-5


class BatchScaling(Precise):
    """Centred and divided by one scale, so that a dimension's variance is one on average.

    In training the statistics are those of the batch and are differentiated, as in batch norm: the
    loss cannot be lowered by shrinking the features. With a process group the batch is that of all
    ranks, in equal parts. In eval mode they are running averages. No dimension has a scale of its
    own, which would change the similarities.

    Args:
        width: of the features.
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
            mean = mean_over_ranks(features.mean(0))
            variance = mean_over_ranks((features - mean).square().mean())
            with torch.no_grad():
                self.mean.lerp_(mean, MOMENTUM)
                self.variance.lerp_(variance, MOMENTUM)
        return (features - mean) * (variance + EPS).rsqrt()


class LearntScaling(Precise):
    """One learnt scale for all dimensions and a learnt bias, as in VkD's detection code.

    Args:
        width: of the features.
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
    """From pooled features to those that a method is called with, in float32 at least.

    Args:
        width: ds, of the pooled features.
        teacher_width: dt, of a head's output.
        feature: "pooled", "mean", "head" (spectrally normalised) or "plain_head".
        scaling: a name in SCALINGS.
        positions: that the pooling sums over; "mean" divides by it.
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
        """Samples that it needs."""
        return getattr(self.scaling, "least_batch", 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ds) -> (B, width) before and after it is scaled."""
        read = at_least_float32(features)
        with without_autocast(features):
            read = read * self.factor if self.head is None else self.head(read)
            return read, self.scaling(read)
