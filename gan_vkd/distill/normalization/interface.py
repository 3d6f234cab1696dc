"""The interface of the normalisations, and those that treat each sample separately."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from gan_vkd.distill.precision import Precise
from gan_vkd.runtime.registry import Registry


class Normalization(Precise):
    """Base class; maps features (B, d) to features (B, d) in float32. `width` is d.

    Raises:
        ValueError: the width is below one.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"a normalisation needs a positive width, got {width}")
        self.width = width

    @classmethod
    def check(cls, **options: Any) -> None:
        """Checks the constructor's options other than the width.

        Raises:
            ValueError: an option is out of range, or options exclude each other.
        """


NORMALIZATIONS: Registry[Normalization] = Registry("normalization")


@NORMALIZATIONS.register("none")
class Identity(Normalization):
    """Returns the features unchanged."""

    def forward(self, features: Tensor) -> Tensor:
        return features.detach().float()


@NORMALIZATIONS.register("layer_norm")
class LayerNorm(Normalization):
    """Zero mean and unit variance over the dimensions of each sample, without affine parameters."""

    def forward(self, features: Tensor) -> Tensor:
        return F.layer_norm(features.detach().float(), (self.width,))


@NORMALIZATIONS.register("l2")
class L2(Normalization):
    """Scales each sample to unit Euclidean length."""

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(features.detach().float(), dim=1)
