"""A frozen network with its preprocessing, and the registry of network families.

A family is a function that builds the network of the settings with its weights. It is registered
under the network's name, or under the part before the "/" of names like timm/NAME.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gan_vkd.distill import Layer, Teacher
from gan_vkd.distill.channels import WHITE
from gan_vkd.runtime.errors import SettingsError, VkdError, one_line
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.registry import Registry
from gan_vkd.teachers.settings import NetworkSettings

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)  # as mean and std, it leaves images in [-1, 1] unchanged


@dataclass(frozen=True)
class Built:
    """A network with its weights and its own preprocessing.

    mean, std: normalisation of images in [0, 1], for each channel that it takes. size: of input
    images; None: any. layer: the default layer. classifier: name of the module behind the features;
    "" for none. class_rows: the classifier's weights (C, d).
    """

    network: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    size: int | None = None
    layer: str = ""
    classifier: str = ""
    class_rows: Tensor | None = None

    def read_at(
        self,
        layers: list[Layer],
        settings: NetworkSettings,
        resolution: int | tuple[int, int],
        device: str,
        background: Sequence[float] = WHITE,
    ) -> Teacher:
        """Freezes the network on the device and reads it at the layers.

        Raises:
            SettingsError: a layer or size that the network lacks, or `enlarge` without effect.
        """
        size = settings.size or self.size
        if settings.enlarge != "bicubic" and size in (None, resolution):
            raise SettingsError(
                f"{settings.name}: enlarge = {settings.enlarge} has no effect, since images of "
                f"{resolution} pixels are not resized: set its size, or leave enlarge out"
            )
        half = HALF[:1] * len(self.mean)
        mean, std = (self.mean, self.std) if settings.normalize else (half, half)
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
                background=background,
            )
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # networks fail on a wrong size or layer in many ways
            reason = one_line(error)
            raise SettingsError(
                f"{settings.name}: cannot be read with these settings: {reason}"
            ) from None


TEACHERS: Registry[Built] = Registry("frozen network")


def unreachable(name: str, url: str, error: Exception) -> VkdError:
    reason = one_line(error)
    return VkdError(
        f"{name}: its weights could not be fetched from {url}; set `weights` beside its name to a "
        f"local copy ({reason})"
    )


def local_path(settings: NetworkSettings) -> Path:
    """The file or run folder of a network that has no published weights.

    Raises:
        SettingsError: `weights` is not set.
    """
    if settings.weights is None:
        raise SettingsError(f"{settings.name}: set its `weights` to a local file or run folder")
    return user_path(settings.weights)
