"""The settings of R3GAN, and the channels of its stages."""

from typing import Annotated, ClassVar

from pydantic import Field

from gan_vkd.data.shape import Shape
from gan_vkd.networks.interface import NETWORKS, Architecture
from gan_vkd.networks.r3gan.discriminator import Discriminator
from gan_vkd.networks.r3gan.generator import Generator
from gan_vkd.runtime.settings import Positive

Few = Annotated[int, Field(ge=1, le=64)]


def widths_of(shape: Shape | int, base: int, most: int, group_width: int) -> dict[int, int]:
    """Channels of stages 4, 8, ..., R: base / r, at most `most`, a multiple of group_width.

    A stage is named by its resolution in a square R x R with as many halvings (`Shape.square`); r
    is the longer side of its features.
    """
    shape = Shape.of(shape)
    longer, last = max(shape.height, shape.width), shape.square
    assert last is not None
    names = [2**power for power in range(2, last.bit_length())]
    groups = {name: min(base // (longer * name // last), most) // group_width for name in names}
    return {name: max(1, count) * group_width for name, count in groups.items()}


@NETWORKS.register("r3gan")
class R3GAN(Architecture):
    """R3GAN's generator and discriminator; the defaults are those published for CIFAR-10 and FFHQ.

    Args:
        channel_base, channel_max: the stage at resolution r has channel_base / r channels, at most
            channel_max, rounded down to a multiple of group_width. ImageNet: 98,304 and 1,536.
        z_dim: width of the latent, and of the generator's embedding of the class.
        blocks: number of residual blocks in a stage.
        expansion: the branches of the blocks are this many times as wide as the blocks.
        group_width: channels in a group of the 3x3 convolutions; 32 for ImageNet.
    """

    any_aspect: ClassVar[bool] = True

    def __init__(
        self,
        *,
        channel_base: Positive = 24_576,
        channel_max: Positive = 768,
        z_dim: Positive = 64,
        blocks: Few = 2,
        expansion: Few = 2,
        group_width: Positive = 16,
    ) -> None:
        self.channel_base, self.channel_max, self.z_dim = channel_base, channel_max, z_dim
        self.blocks, self.expansion, self.group_width = blocks, expansion, group_width

    def _widths(self, shape: Shape) -> dict[int, int]:
        return widths_of(shape, self.channel_base, self.channel_max, self.group_width)

    def generator(self, shape: Shape, classes: int) -> Generator:
        return Generator(
            shape,
            self._widths(shape),
            classes,
            z_dim=self.z_dim,
            blocks=self.blocks,
            expansion=self.expansion,
            group_width=self.group_width,
        )

    def discriminator(self, shape: Shape, classes: int) -> Discriminator:
        return Discriminator(
            shape,
            self._widths(shape),
            classes,
            blocks=self.blocks,
            expansion=self.expansion,
            group_width=self.group_width,
        )
