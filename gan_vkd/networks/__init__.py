"""Architectures of generators and discriminators; importing the package registers them."""

from gan_vkd.networks import biggan as biggan
from gan_vkd.networks import stylegan2 as stylegan2
