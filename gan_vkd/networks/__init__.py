"""Architectures of generators and discriminators; importing the package registers its own."""

from gan_vkd.networks import biggan as biggan
