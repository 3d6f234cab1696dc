"""The registry of distillation losses."""

from torch import nn

from gan_vkd.runtime.registry import Registry

METHODS: Registry[nn.Module] = Registry("method")
