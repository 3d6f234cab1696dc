"""Small data sets on the device: padded crops and flips, of a whole batch at once."""

import torch
import torch.nn.functional as F
from torch import Tensor

from classification.epochs.items import number_of
from classification.epochs.order import Order
from classification.recognition.settings import AugmentSettings, ClassifierSettings
from gan_vkd.runtime import ranks

PADDING = 4  # pixels around, as for CIFAR since He et al. (2016)


def is_simple(augment: AugmentSettings) -> bool:
    """Whether an image is cropped and flipped and nothing else."""
    coloured = augment.policy is not None or augment.color_jitter > 0
    return augment.crop == "padded" and not coloured and augment.erasing == 0


class Resident:
    """Batches by number: crops of the padded images at random places, half of them flipped.

    All ranks draw for the whole batch and keep their rows.

    Args:
        images: (N, 3, R, R) uint8.
        labels: (N,).
        order: which images come when.
        settings: how likely a flip is, mean and standard deviation of each channel.
        device: where the images and the batches lie.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        order: Order,
        settings: ClassifierSettings,
        device: str,
    ) -> None:
        self.order, self.flip, self.device = order, settings.augment.flip, device
        self.size = images.shape[-1]
        self.padded = F.pad(images, [PADDING] * 4).to(device)
        self.labels = labels.to(device)
        data = settings.data
        self.mean, self.std = (
            torch.tensor(x, device=device).view(3, 1, 1) for x in (data.mean, data.std)
        )

    def __call__(self, number: int) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, R, R) and labels (B,)."""
        chosen = torch.tensor([index for _, index in self.order(number)])
        generator = torch.Generator().manual_seed(number_of(self.order.seed, number, "crops"))
        drawn = torch.rand(3, len(chosen) * ranks.world(), generator=generator)
        drawn = drawn[:, ranks.rank() :: ranks.world()].to(self.device, non_blocking=True)
        chosen = chosen.to(self.device, non_blocking=True)
        corners = (drawn[:2] * (2 * PADDING + 1)).long()
        flipped = drawn[2] < self.flip
        images = crop(self.padded[chosen], corners[0], corners[1], flipped, self.size)
        return (images / 255 - self.mean) / self.std, self.labels[chosen]


def crop(images: Tensor, top: Tensor, left: Tensor, flipped: Tensor, size: int) -> Tensor:
    """Windows of images (B, C, H, W), mirrored where flipped (B,), as (B, C, size, size)."""
    along = torch.arange(size, device=images.device)
    rows = top[:, None] + along
    columns = left[:, None] + torch.where(flipped[:, None], along.flip(0), along)
    places = torch.arange(len(images), device=images.device)[:, None, None]
    return images[places, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
