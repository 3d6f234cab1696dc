"""Regularisers of the discriminator for limited data, usable with or without distillation.

All are computed in float32 or better, and none synchronises with the device.
"""

from collections.abc import Callable, Hashable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_vkd.data.batches import Batch
from gan_vkd.distill.precision import Precise, at_least_float32
from gan_vkd.runtime.ranks import mean, own_rows


class Update(NamedTuple):
    """The inputs of a regulariser in one discriminator update, with B fake and B real images.

    number: of the discriminator update. iteration: of the training. batch: the real images before
    augmentation. images (2B, C, H, W), labels (2B,): augmented, fake ones first, as they were
    scored. fake_score, real_score: (B,). augment: maps images to augmented images. score: maps
    images and labels to scores of the discriminator. gradients: the derivatives of these scores at
    the clean fake and real images, (B, 3, R, R) each; only for a regulariser that `differentiates`.
    """

    number: int
    iteration: int
    batch: Batch
    images: Tensor
    labels: Tensor
    fake_score: Tensor
    real_score: Tensor
    augment: Callable[[Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]
    gradients: Callable[[], tuple[Tensor, ...]] = tuple


class Regularizer(Precise):
    """Base class of a term of the discriminator's loss. Its state dict is part of the checkpoints.

    name: key of the term among the logged values.
    """

    name: str

    def penalty(self, update: Update) -> Tensor | None:
        """Returns the weighted term, a scalar; None at updates in which it is not computed."""
        raise NotImplementedError

    def variant(self, number: int, iteration: int) -> Hashable:
        """Everything that `penalty` decides on the host from the update's number and iteration.

        A captured update is repeated wherever this is equal (gan_vkd/runtime/graphs.py).
        """
        return None

    def set_iteration(self, iteration: int) -> None:
        """Sets tensors that follow a schedule, which a captured update reads."""

    def differentiates(self, number: int) -> bool:
        """Whether `penalty` asks for the gradients of the update of this number."""
        return False


class LeCam(Regularizer):
    """Pulls real scores to the average fake score and vice versa (Tseng et al., CVPR 2021, eq. 4).

        mean relu(D(x) - fake_average)^2 + mean relu(real_average - D(G(z)))^2

    The equation in the paper has no relu. The published code (google/lecam-gan) clips, so that a
    score beyond the other average is not pulled back to it, and so does this class. As in that
    code, the averages are updated with the batch before they are used, and have no gradient. In the
    first `start` calls the averages are those of the current batch and the penalty is zero.

    The published weight is 0.3 for BigGAN with hinge loss on any share of CIFAR-10 and CIFAR-100.

    Args:
        decay: of the averages, in [0, 1]. The CIFAR figures were obtained with 0.9; the paper says
            0.99, with no obvious difference according to its author.
        start: number of calls, one per update of the discriminator, before the penalty starts.
            Published: 1,000 iterations of 4.
        weight: of the penalty.

    Raises:
        ValueError: the decay is outside of [0, 1], or the start is negative.
    """

    name = "lecam_loss"

    real_average: Tensor
    fake_average: Tensor
    updates: Tensor

    def __init__(self, decay: float = 0.9, start: int = 4000, weight: float = 1.0) -> None:
        super().__init__()
        if not 0 <= decay <= 1 or start < 0:
            raise ValueError(f"decay must be in [0, 1] and start >= 0, got {decay}, {start}")
        self.decay, self.start, self.weight = decay, start, weight
        self.register_buffer("real_average", torch.zeros(()))
        self.register_buffer("fake_average", torch.zeros(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def penalty(self, update: Update) -> Tensor:
        return self.weight * self(update.real_score, update.fake_score)

    def forward(self, real_score: Tensor, fake_score: Tensor) -> Tensor:
        """Scores of real and of fake images, (B,) and (B',) -> a scalar."""
        real, fake = at_least_float32(real_score), at_least_float32(fake_score)
        started = self.updates >= self.start
        self._update(mean(real.detach().mean()), mean(fake.detach().mean()))
        penalty = F.relu(real - self.fake_average).square().mean()
        penalty = penalty + F.relu(self.real_average - fake).square().mean()
        return torch.where(started, penalty, 0.0)

    def _update(self, real_mean: Tensor, fake_mean: Tensor) -> None:
        # comparing the count in Python would synchronise with the device at every update
        copied = self.updates < max(self.start, 1)
        for average, batch_mean in ((self.real_average, real_mean), (self.fake_average, fake_mean)):
            new = batch_mean.to(average.dtype)
            average.copy_(torch.where(copied, new, new.lerp(average, self.decay)))
        self.updates += 1


def consistency(scores: Tensor, augmented_scores: Tensor) -> Tensor:
    """Mean squared difference between the scores (B,) of images and of their augmented versions.

    On real images alone this is CR-GAN (Zhang et al., ICLR 2020); the sum of one term for real and
    one for fake images is balanced CR, bCR (Zhao et al., AAAI 2021). The published weight is 10 for
    each. Both scores have gradients, as published.
    """
    return (at_least_float32(scores) - at_least_float32(augmented_scores)).square().mean()


def flip_and_shift(images: Tensor, flip: bool = True) -> Tensor:
    """The augmentation of consistency regularisation, for images (B, C, H, W).

    Horizontal flip with probability 1/2, and a shift of up to an eighth of the size in both
    directions (4 pixels at 32x32), drawn per sample from torch's global generator. Neither paper
    specifies the padding; reflection is taken from PyTorch-StudioGAN.

    Args:
        images: in any range.
        flip: whether to flip; False for images whose mirror image is not valid, such as digits.
    """
    b, _, h, w = images.shape
    rows, columns = _reflected(h, b, images.device), _reflected(w, b, images.device)
    if flip:
        mirrored = own_rows(lambda n: torch.rand(n, 1, device=images.device), b) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    sample = torch.arange(b, device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def _reflected(length: int, batch: int, device: torch.device) -> Tensor:
    """Indices (batch, length) along one axis, randomly shifted and reflected at the borders."""
    most = round(length / 8)
    shift = own_rows(lambda n: torch.randint(-most, most + 1, (n, 1), device=device), batch)
    index = (torch.arange(length, device=device) + shift).abs()
    return length - 1 - (length - 1 - index).abs()


class Consistency(Regularizer):
    """Consistency regularisation of the scores under `flip_and_shift` (see `consistency`).

    Args:
        weight: of the term for real and of that for fake images; both are 10 as published.
        images: "real" (CR-GAN) or "both" (balanced CR).
        flip: as in `flip_and_shift`.
    """

    name = "consistency_loss"

    def __init__(
        self, weight: float = 10.0, images: Literal["real", "both"] = "both", flip: bool = True
    ) -> None:
        super().__init__()
        self.weight, self.images, self.flip = weight, images, flip

    def penalty(self, update: Update) -> Tensor:
        b = len(update.real_score)
        first = b if self.images == "real" else 0
        images, labels = update.images[first:], update.labels[first:]
        scores = torch.cat([update.fake_score, update.real_score])[first:]
        moved = torch.cat([flip_and_shift(side, self.flip) for side in images.split(b)])
        again = update.score(moved, labels)
        pairs = zip(again.split(b), scores.split(b), strict=True)
        return self.weight * torch.stack([consistency(a, s) for a, s in pairs]).sum()
