"""Small data sets on the device: padded crops and flips of a whole batch at once."""

import torch
import torch.nn.functional as F
from torch import Tensor

from classification.epochs.items import seed_of
from classification.epochs.order import Order
from classification.recognition.settings import AugmentSettings, ClassifierSettings
from gan_vkd.runtime import ranks

PADDING = 4  # pixels on each side, as for CIFAR since He et al. (2016)


def is_simple(augment: AugmentSettings) -> bool:
    """Whether images are only cropped and flipped."""
    coloured = augment.policy is not None or augment.color_jitter > 0
    return augment.crop == "padded" and not coloured and augment.erasing == 0


class Resident:
    """Batches by number: random crops of the padded images, flipped at random.

    Every rank draws the random numbers of the whole batch and uses those of its own images.

    Args:
        images: (N, 3, R, R) uint8.
        labels: (N,).
        order: the images of each batch.
        settings: the probability of a flip, and each channel's mean and standard deviation.
        device: of the images and the batches.
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
        generator = torch.Generator().manual_seed(seed_of(self.order.seed, number, "crops"))
        drawn = torch.rand(3, len(chosen) * ranks.world(), generator=generator)
        drawn = drawn[:, ranks.rank() :: ranks.world()].to(self.device, non_blocking=True)
        chosen = chosen.to(self.device, non_blocking=True)
        corners = (drawn[:2] * (2 * PADDING + 1)).long()
        flipped = drawn[2] < self.flip
        images = crop(self.padded[chosen], corners[0], corners[1], flipped, self.size)
        return (images / 255 - self.mean) / self.std, self.labels[chosen]


def crop(images: Tensor, top: Tensor, left: Tensor, flipped: Tensor, size: int) -> Tensor:
    """Crops images (B, C, H, W) to (B, C, size, size), mirrored where `flipped` (B,) is true."""
    along = torch.arange(size, device=images.device)
    rows = top[:, None] + along
    columns = left[:, None] + torch.where(flipped[:, None], along.flip(0), along)
    places = torch.arange(len(images), device=images.device)[:, None, None]
    return images[places, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
