"""Normalisations of the teacher's features: what the student is asked to match.

Layer norm suits recognition, whitening suits generation (Miles, Elezi and Deng, CVPR 2024, section
3.3). One interface: features (B, d) in, features (B, d) in float32 out, no gradient. In training
mode a module with statistics first takes the batch into them, in eval mode, and after `fit`, it
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
