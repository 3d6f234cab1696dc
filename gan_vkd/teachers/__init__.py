"""Frozen networks by name; importing this package registers the built-in families."""

from gan_vkd.teachers import cifar_resnet as cifar_resnet
from gan_vkd.teachers import discriminator as discriminator
from gan_vkd.teachers import rednet as rednet
from gan_vkd.teachers import timm_models as timm_models
