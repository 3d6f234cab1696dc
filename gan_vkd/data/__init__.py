"""Image data sets; importing the package registers the named ones."""

from gan_vkd.data import cifar as cifar
from gan_vkd.data import digits as digits
