"""The settings of StyleGAN2, and the channels of its blocks."""

from typing import Annotated, ClassVar, Literal

from gan_vkd.data.shape import Shape
from gan_vkd.networks.interface import NETWORKS, Architecture
from gan_vkd.networks.stylegan2.discriminator import Discriminator
from gan_vkd.networks.stylegan2.generator import Generator
from gan_vkd.runtime.settings import Fraction, Positive, Weight, number_or

ChannelBase = Annotated[
    int | Literal["auto"],
    number_or(
        "auto",
        number="a whole number from 1 to 10^8",
        fits=lambda x: 1 <= x <= 10**8 and x == int(x),
    ),
]


def widths_of(
    shape: Shape | int, channel_base: int | Literal["auto"], channel_max: int
) -> dict[int, int]:
    """Channels of blocks 4, 8, ..., R: channel_base / r, at least 1 and at most channel_max.

    A block is named by its resolution in a square R x R with as many halvings (`Shape.square`); r
    is the longer side of its features.

    auto: 32,768 from 512 pixels on and 16,384 below, as in StyleGAN2-ADA.
    """
    shape = Shape.of(shape)
    longer, last = max(shape.height, shape.width), shape.square
    assert last is not None
    if channel_base == "auto":
        channel_base = 32_768 if longer >= 512 else 16_384
    names = [2**power for power in range(2, last.bit_length())]
    longers = {name: longer * name // last for name in names}
    return {name: max(1, min(channel_base // side, channel_max)) for name, side in longers.items()}


@NETWORKS.register("stylegan2")
class StyleGAN2(Architecture):
    """StyleGAN2's generator and discriminator; the defaults are those of StyleGAN2-ADA's `auto`.

    Args:
        channel_base, channel_max: a block at resolution r has channel_base / r channels, at most
            channel_max; auto depends on the resolution of the images.
        z_dim, w_dim: widths of the latent and of the intermediate latent.
        mapping_layers: of the generator's mapping network; 8 in StyleGAN2.
        style_mixing: share of the generated images in training that mix the styles of two latents.
        minibatch_std: largest number of images that are compared with each other.
        residual: whether the discriminator's blocks have shortcuts.
        conv_clamp: largest magnitude of the layers' outputs, 256 as published for float16; 0: none.
    """

    has_styles: ClassVar[bool] = True
    any_aspect: ClassVar[bool] = True

    def __init__(
        self,
        *,
        channel_base: ChannelBase = "auto",
        channel_max: Positive = 512,
        z_dim: Positive = 512,
        w_dim: Positive = 512,
        mapping_layers: Positive = 2,
        style_mixing: Fraction = 0.9,
        minibatch_std: Positive = 4,
        residual: bool = True,
        conv_clamp: Weight = 0.0,
    ) -> None:
        self.channel_base, self.channel_max = channel_base, channel_max
        self.z_dim, self.w_dim, self.mapping_layers = z_dim, w_dim, mapping_layers
        self.style_mixing, self.minibatch_std = style_mixing, minibatch_std
        self.residual, self.clamp = residual, conv_clamp or None

    def _widths(self, shape: Shape) -> dict[int, int]:
        return widths_of(shape, self.channel_base, self.channel_max)

    def generator(self, shape: Shape, classes: int) -> Generator:
        return Generator(
            self._widths(shape),
            classes,
            shape=shape,
            z_dim=self.z_dim,
            w_dim=self.w_dim,
            mapping_layers=self.mapping_layers,
            style_mixing=self.style_mixing,
            clamp=self.clamp,
        )

    def discriminator(self, shape: Shape, classes: int) -> Discriminator:
        return Discriminator(
            self._widths(shape),
            classes,
            shape=shape,
            group=self.minibatch_std,
            residual=self.residual,
            clamp=self.clamp,
        )
