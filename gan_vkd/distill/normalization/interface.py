"""The interface of all normalisations, and those that take each sample by itself."""

import torch.nn.functional as F
from torch import Tensor

from gan_vkd.distill.precision import Precise


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


class Identity(Normalization):
    """The features as they are."""

    def forward(self, features: Tensor) -> Tensor:
        return features.detach().float()


class LayerNorm(Normalization):
    """Zero mean and unit variance over the depth of each sample, without affine parameters."""

    def forward(self, features: Tensor) -> Tensor:
        return F.layer_norm(features.detach().float(), (self.width,))


class L2(Normalization):
    """Unit length of each sample."""

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(features.detach().float(), dim=1)
