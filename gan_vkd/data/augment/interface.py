"""What an augmentation is, its registry, and several of them in a row."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from gan_vkd.runtime.registry import Chosen, Registry


class Augmentation(nn.Module):
    """Base class of differentiable augmentations; itself the identity.

    Parameters are drawn for each sample from torch's global generator. State that is adapted in
    training must be in buffers, which checkpoints save, and be equal on all ranks.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Augments images (B, C, H, W) in [-1, 1]."""
        return images

    def set_iteration(self, iteration: int) -> None:
        """Sets what is scheduled, before each iteration, counted from 0."""

    def observe(self, real_scores: Tensor) -> None:
        """Receives the detached scores (B,) of real images at each discriminator update."""

    def logged(self) -> dict[str, Tensor]:
        """Returns values to log, each of one element, by name; later updates do not change them."""
        return {}


AUGMENTATIONS: Registry[Augmentation] = Registry("augmentation")


class Augmentations(Augmentation):
    """Applies several augmentations in order; an empty policy is the identity.

    Args:
        policy: names in AUGMENTATIONS, or mappings of a name and options.
    """

    def __init__(self, policy: Sequence[Chosen]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(AUGMENTATIONS.make(chosen) for chosen in policy)

    def forward(self, images: Tensor) -> Tensor:
        for part in self.parts:
            images = part(images)
        return images

    def set_iteration(self, iteration: int) -> None:
        for part in self.parts:
            cast(Augmentation, part).set_iteration(iteration)

    def observe(self, real_scores: Tensor) -> None:
        for part in self.parts:
            cast(Augmentation, part).observe(real_scores)

    def logged(self) -> dict[str, Tensor]:
        parts = (cast(Augmentation, part).logged() for part in self.parts)
        return {name: value for values in parts for name, value in values.items()}
