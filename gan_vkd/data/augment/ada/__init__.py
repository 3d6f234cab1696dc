"""Adaptive discriminator augmentation (Karras et al., NeurIPS 2020), written from the paper.

Every operation is applied to each sample with the same probability p, which a controller raises
while the discriminator overfits. Distributions of the parameters are those of appendix B.
"""

from gan_vkd.data.augment.ada.controller import Controller
from gan_vkd.data.augment.ada.pipeline import Ada

__all__ = ["Ada", "Controller"]
