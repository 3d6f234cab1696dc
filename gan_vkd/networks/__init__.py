"""Architectures of generators and discriminators; importing the package registers them."""

from gan_vkd.networks import biggan as biggan
from gan_vkd.networks import r3gan as r3gan
from gan_vkd.networks import stylegan2 as stylegan2
