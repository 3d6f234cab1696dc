"""Normalisations of the teacher's features, which give the targets of the distillation loss.

Layer norm suits recognition, whitening suits generation (Miles, Elezi and Deng, CVPR 2024, section
3.3). All map features (B, d) to features (B, d) in float32, without a gradient. In training mode a
module with running statistics first updates them with the batch; in eval mode, and after `fit`, it
only applies them.
"""

from gan_vkd.distill.normalization.covariance import RunningCovariance
from gan_vkd.distill.normalization.hadamard import hadamard
from gan_vkd.distill.normalization.interface import (
    L2,
    NORMALIZATIONS,
    Identity,
    LayerNorm,
    Normalization,
)
from gan_vkd.distill.normalization.phi_s import PhiS
from gan_vkd.distill.normalization.spectrum import effective_rank, view_agreement
from gan_vkd.distill.normalization.standardize import Standardize
from gan_vkd.distill.normalization.statistics import RunningStatistics
from gan_vkd.distill.normalization.whitening import Whitening

__all__ = [
    "L2",
    "NORMALIZATIONS",
    "Identity",
    "LayerNorm",
    "Normalization",
    "PhiS",
    "RunningCovariance",
    "RunningStatistics",
    "Standardize",
    "Whitening",
    "effective_rank",
    "hadamard",
    "view_agreement",
]
