"""The core: feature distillation by orthogonal projection. Imports torch and nothing above it."""

from gan_vkd.distill.losses import VkDLoss
from gan_vkd.distill.normalization import (
    Identity,
    LayerNorm,
    Normalization,
    Standardize,
    Whitening,
    make_normalization,
)
from gan_vkd.distill.projection import (
    IdentityProjection,
    LinearProjection,
    OrthogonalProjection,
    make_projection,
    orthonormal_columns,
)
from gan_vkd.distill.teacher import Tap, Teacher, pool

__all__ = [
    "Identity",
    "IdentityProjection",
    "LayerNorm",
    "LinearProjection",
    "Normalization",
    "OrthogonalProjection",
    "Standardize",
    "Tap",
    "Teacher",
    "VkDLoss",
    "Whitening",
    "make_normalization",
    "make_projection",
    "orthonormal_columns",
    "pool",
]
