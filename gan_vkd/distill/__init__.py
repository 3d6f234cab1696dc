"""The core: feature distillation by orthogonal projection. Depends on torch alone."""

from gan_vkd.distill.distiller import Distiller
from gan_vkd.distill.losses import METHODS, LayerPairs, VkDLoss
from gan_vkd.distill.normalization import NORMALIZATIONS, Normalization
from gan_vkd.distill.projection import PROJECTIONS, Projection, retract
from gan_vkd.distill.student import SCALINGS, StudentFeature
from gan_vkd.distill.teacher import Layer, Reader, Teacher

__all__ = [
    "METHODS",
    "NORMALIZATIONS",
    "PROJECTIONS",
    "SCALINGS",
    "Distiller",
    "Layer",
    "LayerPairs",
    "Normalization",
    "Projection",
    "Reader",
    "StudentFeature",
    "Teacher",
    "VkDLoss",
    "retract",
]
