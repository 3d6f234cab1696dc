"""Regularisers of the discriminator for little data; they add to the game with any distillation.

All are computed in float32 or better, and none waits for the device.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_vkd.data.batches import Batch
from gan_vkd.distill.precision import Precise, at_least_float32
from gan_vkd.game.schedule import Schedule, as_schedule
from gan_vkd.runtime.ranks import mean, own_rows


class Update(NamedTuple):
    """What a regulariser sees of an update of the discriminator; B fake images and B real ones.

    number: of the update. iteration: that it belongs to. batch: the real images before they are
    augmented. images (2B, 3, R, R), labels (2B,): fake and real, as they were scored. fake_score,
    real_score: (B,). augment: of images. score: of images and labels, by the discriminator.
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


class Regularizer(Precise):
    """A term of the discriminator's loss; its state, where it has one, is in the checkpoints.

    name: of the term in the records.
    """

    name: str

    def penalty(self, update: Update) -> Tensor | None:
        """The weighted term, a scalar; None where it is not due."""
        raise NotImplementedError


class LeCam(Regularizer):
    """Keeps the scores near the moving average of the other side (Tseng et al., CVPR 2021, eq. 4).

        mean relu(D(x) - fake_average)^2 + mean relu(real_average - D(G(z)))^2

    The equation has no relu: the published code (google/lecam-gan) clips, so that a score on the
    wrong side of the other average is not pulled to it, and so does this. As there, a batch is
    taken into the averages before they are used, and no gradient flows into them. In the first
    `start` calls the averages are those of the present batch and the penalty is zero.

    The published weight is 0.3 for BigGAN with hinge loss on any share of CIFAR-10 and CIFAR-100.

    Args:
        decay: of the averages, in [0, 1]. 0.9 is what the CIFAR figures were obtained with; the
            paper says 0.99, which according to its author makes no obvious difference.
        start: in calls, one an update of the discriminator. Published: 1,000 iterations of 4.
        weight: of the penalty.

    Raises:
        ValueError: a decay outside of [0, 1] or a negative start.
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
        """Scores (B,) of real and of fake images, which may differ in number -> scalar."""
        real, fake = at_least_float32(real_score), at_least_float32(fake_score)
        started = self.updates >= self.start
        self._update(mean(real.detach().mean()), mean(fake.detach().mean()))
        penalty = F.relu(real - self.fake_average).square().mean()
        penalty = penalty + F.relu(self.real_average - fake).square().mean()
        return torch.where(started, penalty, 0.0)

    def _update(self, real_mean: Tensor, fake_mean: Tensor) -> None:
        # the count stays on the device: comparing it in Python would wait for it at every step
        copied = self.updates < max(self.start, 1)
        for average, batch_mean in ((self.real_average, real_mean), (self.fake_average, fake_mean)):
            new = batch_mean.to(average.dtype)
            average.copy_(torch.where(copied, new, new.lerp(average, self.decay)))
        self.updates += 1


def consistency(scores: Tensor, augmented_scores: Tensor) -> Tensor:
    """Mean squared difference between the scores (B,) of images and of the same ones augmented.

    On real images alone it is CR-GAN (Zhang et al., ICLR 2020); one for real plus one for fake
    images is balanced, bCR (Zhao et al., AAAI 2021). The published weight is 10 for each. Gradients
    flow through both scores, as published.
    """
    return (at_least_float32(scores) - at_least_float32(augmented_scores)).square().mean()


def flip_and_shift(images: Tensor, flip: bool = True) -> Tensor:
    """The augmentation of consistency regularisation, for images (B, C, H, W).

    A horizontal flip of every other image and a shift of up to an eighth of the size in both
    directions, 4 pixels at 32x32, each drawn a sample from torch's global generator. Neither
    paper says what comes in at the border; reflection is what PyTorch-StudioGAN takes.

    Args:
        images: in any range.
        flip: whether a mirrored image is as good; not so for digits.
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
    """Indices (batch, length) into a line, at a random shift and reflected at its ends."""
    most = round(length / 8)
    shift = own_rows(lambda n: torch.randint(-most, most + 1, (n, 1), device=device), batch)
    index = (torch.arange(length, device=device) + shift).abs()
    return length - 1 - (length - 1 - index).abs()


def r1_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """Half the mean squared norm of the gradient of D (Mescheder et al., ICML 2018, equation 9).

        E ||grad_x D(x)||^2 / 2 over real images; its weight is the paper's gamma

    StyleGAN2-ADA takes the gradient at the clean images, through the augmentation: ask those for
    a gradient (`requires_grad_()`), then augment, then score.

    Args:
        scores: (B,), each of its own image alone, computed from `images` with gradients on.
        images: (B, ...), with requires_grad.

    Raises:
        RuntimeError: the images do not require a gradient, or the scores do not depend on them.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return at_least_float32(gradient).square().sum() / (2 * len(images))


class Consistency(Regularizer):
    """The scores of images and of the same images moved are to agree (`consistency`).

    Args:
        weight: published are 10 and 10.
        images: real images (CR-GAN) or both (balanced).
        flip: whether a mirrored image is as good.
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


class R1(Regularizer):
    """The penalty of `r1_penalty`, at the clean real images and through the augmentation.

    Args:
        weight: the paper's gamma, a number or a schedule over iterations.
        every: updates from one to the next; it is as much stronger (lazy regularisation, Karras et
            al., CVPR 2020, appendix B).
    """

    name = "r1_loss"

    def __init__(self, weight: Schedule | float, every: int = 16) -> None:
        super().__init__()
        self.weight, self.every = as_schedule(weight), every

    def penalty(self, update: Update) -> Tensor | None:
        if update.number % self.every:
            return None
        real = update.batch.images.detach().clone().requires_grad_()
        scores = update.score(update.augment(real), update.batch.labels)
        return self.weight(update.iteration) * self.every * r1_penalty(scores, real)
