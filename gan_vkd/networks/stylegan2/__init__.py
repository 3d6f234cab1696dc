"""StyleGAN2 with the refinements of StyleGAN2-ADA, written from the papers' equations.

Karras et al., CVPR 2020 (the networks) and NeurIPS 2020 (configurations, projection on the class).
Parameters have the names and shapes of the published PyTorch checkpoints.
"""

from gan_vkd.networks.stylegan2.architecture import StyleGAN2 as StyleGAN2
from gan_vkd.networks.stylegan2.discriminator import Discriminator as Discriminator
from gan_vkd.networks.stylegan2.generator import Generator as Generator
