"""What a frozen network comes with, and the registry of their families.

A family is a function of the settings that builds the network with its weights, registered under
the name, or under what stands before the "/" of names as timm/NAME.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gan_vkd.distill import Layer, Teacher
from gan_vkd.runtime.errors import SettingsError, VkdError, one_line
from gan_vkd.runtime.registry import Registry
from gan_vkd.teachers.settings import NetworkSettings

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)  # as mean and as std, it leaves images in [-1, 1]


@dataclass(frozen=True)
class Built:
    """A network with its weights, and what is its own.

    mean, std: of its normalisation, for images in [0, 1]. size: of its images; None: any. layer:
    where it is usually read. classifier: the module behind its features; "" for none. class_rows:
    the classifier's weights (C, d).
    """

    network: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    size: int | None = None
    layer: str = ""
    classifier: str = ""
    class_rows: Tensor | None = None

    def read_at(
        self, layers: list[Layer], settings: NetworkSettings, resolution: int, device: str
    ) -> Teacher:
        """Frozen, on the device.

        Raises:
            SettingsError: a layer or size that is not the network's, or nothing to enlarge.
        """
        size = settings.size or self.size
        if settings.enlarge != "bicubic" and size in (None, resolution):
            raise SettingsError(
                f"{settings.name}: enlarge = {settings.enlarge} has no effect, since images of "
                f"{resolution} pixels are shown as they are: set its size, or leave enlarge out"
            )
        mean, std = (self.mean, self.std) if settings.normalize else (HALF, HALF)
        try:
            return Teacher(
                self.network.to(device),
                mean=mean,
                std=std,
                size=(size, size) if size else None,
                enlarge=settings.enlarge,
                layers=layers,
                probe=resolution,
                class_rows=self.class_rows,
            )
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # networks fail on a size or layer not theirs in many ways
            reason = one_line(error)
            raise SettingsError(f"{settings.name}: cannot be read as asked: {reason}") from None


TEACHERS: Registry[Built] = Registry("frozen network")


def unreachable(name: str, url: str, error: Exception) -> VkdError:
    reason = one_line(error)
    return VkdError(
        f"{name}: its weights could not be fetched from {url}; set `weights` beside its name to a "
        f"local copy ({reason})"
    )


def local(settings: NetworkSettings) -> Path:
    """The file or run folder of a network that is not published.

    Raises:
        SettingsError: none is named.
    """
    if settings.weights is None:
        raise SettingsError(f"{settings.name}: set its weights to one of our files or run folders")
    return Path(settings.weights).expanduser()
