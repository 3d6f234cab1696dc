"""Projection of a picture into a latent space (Karras et al., CVPR 2020, appendix D).

As published: Adam over the latent and the noise maps, from the mean of w; noise is added to w that
fades during the first three quarters; the noise maps are kept from taking up the picture. The
perceptual distance is another one (gan_vkd/tools/perceptual.py), to which that of pixels is added.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_vkd.data.image_set import to_uint8
from gan_vkd.runtime.bars import progress_bar
from gan_vkd.tools.latent_spaces import LatentSpace
from gan_vkd.tools.perceptual import Distance

LEARNING_RATE = 0.1
UP, DOWN = 0.05, 0.25  # shares of the steps in which the learning rate rises and falls
NOISE, FADED = 0.05, 0.75  # the noise on w, in deviations of w, and when it is gone
REGULARISATION = 1e5  # weight of the noise maps' correlations
SNAPSHOTS = 100  # pictures that are kept of the course


@dataclass(frozen=True)
class Projected:
    """The result of a projection.

    state: that of the space, and the noise maps by the names of the generator's buffers. image:
    uint8 (C, H, W). before, after: (2,), perceptual and pixel distance at the start and at the end,
    without noise on the latent. course: (steps, 2), the same with the noise. snapshots: uint8
    (N, C, H, W).
    """

    state: dict[str, Tensor]
    image: Tensor
    before: Tensor
    after: Tensor
    course: Tensor
    snapshots: Tensor


def rate_at(done: float) -> float:
    """Learning rate when a share of the steps is done: linear rise, cosine fall."""
    fall = min(1.0, (1 - done) / DOWN)
    return LEARNING_RATE * (0.5 - 0.5 * math.cos(math.pi * fall)) * min(1.0, done / UP)


def noise_at(done: float) -> float:
    """Standard deviation of the noise on the latent, in deviations of the space."""
    return NOISE * max(0.0, 1 - done / FADED) ** 2


def correlation(noise: Tensor) -> Tensor:
    """Squared correlation of a noise map (H, W) with itself moved by a pixel, along both axes.

    Summed over the map and its halved versions, down to 8 pixels; halving averages four pixels and
    doubles, which keeps the variance of white noise.
    """
    total, noise = noise.new_zeros(()), noise[None, None]
    while True:
        for axis in (2, 3):
            total = total + (noise * noise.roll(1, axis)).mean().square()
        if min(noise.shape[2:]) <= 8:
            return total
        noise = 2 * F.avg_pool2d(noise, 2)


class Search:
    """The search for the latent whose picture is nearest to the target.

    image: (1, C, H, W), the picture of the last step; of the start before the first one.

    Args:
        space: that is searched, with its start.
        distance: from the target.
        steps: number of updates.
        seed: of the noise on the latent.
    """

    def __init__(self, space: LatentSpace, distance: Distance, steps: int, seed: int) -> None:
        self.space, self.distance, self.steps = space, distance, steps
        self.latent = space.start.clone().requires_grad_()
        self.noises = {key: noise.clone().requires_grad_() for key, noise in space.noises.items()}
        self.optimizer = torch.optim.Adam([self.latent, *self.noises.values()], LEARNING_RATE)
        self.source = torch.Generator().manual_seed(seed)
        self.course: list[Tensor] = []
        self.snapshots: list[Tensor] = []
        self.image, self.before = self._measured()

    def step(self) -> None:
        """Makes an update; to be called `steps` times."""
        space, noises = self.space, self.noises.values()
        done = len(self.course) / self.steps
        self.optimizer.param_groups[0]["lr"] = rate_at(done)
        drawn = torch.randn(self.latent.shape, generator=self.source).to(self.latent.device)
        noisy = self.latent + drawn * (noise_at(done) * space.deviation)
        image = space.images(noisy, self.noises)
        perceptual, pixels = self.distance(image)
        loss = perceptual.sum() + pixels.sum()
        for noise in noises:
            loss = loss + REGULARISATION * correlation(noise)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for noise in noises:
                noise.sub_(noise.mean()).mul_(noise.square().mean().rsqrt())
        self.image = image.detach()
        if len(self.course) % -(-self.steps // SNAPSHOTS) == 0:
            self.snapshots.append(to_uint8(self.image))
        self.course.append(torch.cat([perceptual, pixels]).detach())

    def found(self) -> Projected:
        """The result after the steps so far."""
        image, after = self._measured()
        picture = to_uint8(image)
        state = self.space.state(self.latent) | self.noises
        return Projected(
            {name: value.detach() for name, value in state.items()},
            picture[0],
            self.before,
            after,
            torch.stack(self.course),
            torch.cat([*self.snapshots, picture]),
        )

    @torch.no_grad()
    def _measured(self) -> tuple[Tensor, Tensor]:
        """The picture without noise on the latent, and its two distances."""
        image = self.space.images(self.latent, self.noises)
        return image, torch.cat(self.distance(image))


def project(search: Search) -> Projected:
    """Makes all steps of a search, with a progress bar."""
    for _ in progress_bar(range(search.steps), "projection"):
        search.step()
    return search.found()
