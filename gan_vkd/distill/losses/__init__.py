"""Distillation losses, all called as loss = method(student_features, teacher_features).

The constructor takes the widths of student and teacher. A loss may have parameters of its own (a
projection, a regressor, a head), which are trained with the student and not used afterwards. A
class with `takes_text` takes the class embeddings (C, dt) as a third argument and has its own head.
"""

from gan_vkd.distill.losses.aggregated import Aggregated
from gan_vkd.distill.losses.distances import DISTANCES
from gan_vkd.distill.losses.fitnets import FitNets
from gan_vkd.distill.losses.kd_dlgm import KDDLGM
from gan_vkd.distill.losses.pairs import LayerPairs
from gan_vkd.distill.losses.pkd import PKD
from gan_vkd.distill.losses.registry import METHODS
from gan_vkd.distill.losses.rkd import RKD
from gan_vkd.distill.losses.spkd import SPKD
from gan_vkd.distill.losses.vicreg import VICReg
from gan_vkd.distill.losses.vkd import VkDLoss

__all__ = [
    "DISTANCES",
    "KDDLGM",
    "METHODS",
    "PKD",
    "RKD",
    "SPKD",
    "Aggregated",
    "FitNets",
    "LayerPairs",
    "VICReg",
    "VkDLoss",
]
