"""The core: feature distillation by orthogonal projection. Imports torch and nothing above it."""

from gan_vkd.distill.losses import VkDLoss
from gan_vkd.distill.normalization import NORMALIZATIONS, Normalization, make_normalization
from gan_vkd.distill.projection import PROJECTIONS, Projection, make_projection
from gan_vkd.distill.teacher import Tap, Teacher, pool

__all__ = [
    "NORMALIZATIONS",
    "PROJECTIONS",
    "Normalization",
    "Projection",
    "Tap",
    "Teacher",
    "VkDLoss",
    "make_normalization",
    "make_projection",
    "pool",
]
