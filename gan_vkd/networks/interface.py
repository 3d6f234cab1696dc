"""The interface of generators and discriminators, and the registry of architectures.

A new architecture is one file: a subclass of `Architecture`, registered under its name.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from gan_vkd.data.shape import LEAST, Shape
from gan_vkd.networks.layers import Standardization
from gan_vkd.runtime.registry import Registry


class Generator(nn.Module):
    """Base class; `forward(z, labels)` maps (B, z_dim), (B,) to images (B, C, H, W).

    The range of images is [-1, 1]. What a generator exceeds it by is clipped where pixels are made.

    shape: (C, H, W).
    z_dim: width of the latent.
    classes: number of classes; 0 for an unconditional generator, whose labels are all 0.
    """

    shape: Shape
    z_dim: int
    classes: int

    def latents(
        self, count: int, device: str | torch.device = "cpu", source: torch.Generator | None = None
    ) -> Tensor:
        """Draws latents (count, z_dim) from the standard normal distribution."""
        return torch.randn(count, self.z_dim, device=device, generator=source)

    def styled(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images as `forward` gives them, and the styles (B, L, d) that they are computed from.

        Only for architectures with `has_styles`.
        """
        raise NotImplementedError

    def truncate(self, psi: float) -> None:
        """Trades variety for quality in eval mode: 1 is all variety, 0 none.

        Raises:
            ValueError: the network has no truncation.
        """
        raise ValueError("has no truncation")

    def drawn_noise(self) -> AbstractContextManager[None]:
        """Context in which the noise of each image is drawn in eval mode, as it is in training.

        Only for networks with noise beside the latent; without the context their noise is fixed.
        """
        return nullcontext()

    def batch_norms(self) -> list[Standardization]:
        """The batch norms, whose statistics may be re-estimated before sampling."""
        return [module for module in self.modules() if isinstance(module, Standardization)]


class DiscriminatorOutput(NamedTuple):
    """Score (B,), and the features (B, width) that it is computed from."""

    score: Tensor
    features: Tensor


class Discriminator(nn.Module):
    """Base class; `forward(images, labels)` maps (B, C, H, W), (B,) to a DiscriminatorOutput.

    shape: (C, H, W).
    classes: number of classes; 0 for an unconditional discriminator.
    width: of the features.
    positions: number of positions that the features are summed over; 1 if they are not a sum.
    group: number of consecutive images that are compared with each other; 1 if the outputs for an
        image depend on it alone. Must divide the number of real and of fake images on each rank.
    """

    shape: Shape
    classes: int
    width: int
    positions: int = 1
    group: int = 1

    def lower_layers(self) -> list[nn.Module]:
        """The layers that may be frozen, from the image on.

        Raises:
            ValueError: the network does not name them.
        """
        raise ValueError("does not name its lower layers")


@contextmanager
def in_eval_mode(*networks: nn.Module) -> Iterator[None]:
    """Context in which the networks are in eval mode; each module returns to its own mode."""
    training = [module for network in networks for module in network.modules() if module.training]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class Architecture:
    """Builds a generator and the discriminator that it is trained against.

    resolutions: sides of the square images that the networks can be built for.
    any_aspect: whether they can be built for other sides with as many halvings (`Shape.square`).
    has_styles: whether images are computed from an intermediate latent (`Generator.styled`).
    """

    has_styles: ClassVar[bool] = False
    resolutions: ClassVar[Sequence[int]] = (32, 64, 128, 256, 512)
    any_aspect: ClassVar[bool] = False

    def require(self, shape: Shape) -> None:
        """Raises ValueError if the networks cannot be built for images of the shape."""
        usual = shape.height == shape.width == shape.square
        if shape.square in self.resolutions and (usual or self.any_aspect):
            return
        known = ", ".join(map(str, self.resolutions))
        if self.any_aspect:
            powers = ", ".join(str(side // LEAST) for side in self.resolutions)
            known += f", or sides that are multiples of {powers}, the shorter one 4 to 7 times it"
        raise ValueError(f"data.resolution = {shape}: {type(self).__name__} takes {known}")

    def generator(self, shape: Shape, classes: int) -> Generator:
        raise NotImplementedError

    def discriminator(self, shape: Shape, classes: int) -> Discriminator:
        raise NotImplementedError


NETWORKS: Registry[Architecture] = Registry("network")
