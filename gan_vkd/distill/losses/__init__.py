"""Distillation losses with one call: loss = method(student_features, teacher_features).

Each is built from the widths of both sides and learns what it needs beside the student (a
projection, a regressor, a head), which is dropped after the training. A class with `takes_text` is
given (C, dt) embeddings of the classes as a third argument, and maps by a head of its own.
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
