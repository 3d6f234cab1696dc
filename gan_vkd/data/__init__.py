"""Sets of images; importing the package registers those that have a name."""

from gan_vkd.data import cifar as cifar
from gan_vkd.data import digits as digits
