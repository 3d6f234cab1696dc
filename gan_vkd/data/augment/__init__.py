"""Augmentation of the discriminator's images: DiffAugment and ADA (docs/augmentation.md).

A further augmentation is a subclass of `Augmentation`, registered by name.
"""

from gan_vkd.data.augment.ada import Ada
from gan_vkd.data.augment.diffaugment import Color, Cutout, Translation, color, cutout, translation
from gan_vkd.data.augment.interface import AUGMENTATIONS, Augmentation, Augmentations

__all__ = [
    "AUGMENTATIONS",
    "Ada",
    "Augmentation",
    "Augmentations",
    "Color",
    "Cutout",
    "Translation",
    "color",
    "cutout",
    "translation",
]
