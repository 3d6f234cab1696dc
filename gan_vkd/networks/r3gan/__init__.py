"""R3GAN's networks, written from the paper and the facts of the published configurations.

Huang, Gokaslan, Kuleshov and Tompkin, "The GAN is dead; long live the GAN! A Modern Baseline GAN",
NeurIPS 2024 (config E). Parameters have the shapes and the order of the published checkpoints.
"""

from gan_vkd.networks.r3gan.architecture import R3GAN as R3GAN
from gan_vkd.networks.r3gan.discriminator import Discriminator as Discriminator
from gan_vkd.networks.r3gan.generator import Generator as Generator
