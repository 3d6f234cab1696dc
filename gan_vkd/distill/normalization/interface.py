"""The interface of all normalisations, and those that take each sample by itself."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from gan_vkd.distill.precision import Precise
from gan_vkd.runtime.registry import Registry


class Normalization(Precise):
    """Base of all: features (B, d) in, features (B, d) in float32 out; `width` is d.

    Raises:
        ValueError: a width below one.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"a normalisation needs a positive width, got {width}")
        self.width = width

    @classmethod
    def check(cls, **options: Any) -> None:
        """Refuses options that are out of range or exclude each other, whatever the width.

        Raises:
            ValueError: such options.
        """


NORMALIZATIONS: Registry[Normalization] = Registry("normalization")


@NORMALIZATIONS.register("none")
class Identity(Normalization):
    """The features as they are."""

    def forward(self, features: Tensor) -> Tensor:
        return features.detach().float()


@NORMALIZATIONS.register("layer_norm")
class LayerNorm(Normalization):
    """Zero mean and unit variance over the depth of each sample, without affine parameters."""

    def forward(self, features: Tensor) -> Tensor:
        return F.layer_norm(features.detach().float(), (self.width,))


@NORMALIZATIONS.register("l2")
class L2(Normalization):
    """Unit length of each sample."""

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(features.detach().float(), dim=1)
