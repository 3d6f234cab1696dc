"""The stems of CiT (Ren et al., CVPR 2022); the first is that of VkD's released students, too."""

import torch
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from gan_vkd.networks import rednet

CHANNELS = 64


class ConvStem(nn.Sequential):
    """Three convolutions at half the resolution, then the projection of their maps' patches.

    Args:
        width: of the tokens.
        patch: side of a patch in pixels, an even number.
    """

    def __init__(self, width: int, patch: int) -> None:
        layers: list[nn.Module] = []
        for channels, size, stride in ((3, 7, 2), (CHANNELS, 3, 1), (CHANNELS, 3, 1)):
            layers += [
                nn.Conv2d(channels, CHANNELS, size, stride, size // 2, bias=False),
                nn.BatchNorm2d(CHANNELS),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers, nn.Conv2d(CHANNELS, width, patch // 2, patch // 2))
        _initialise(self)


def _initialise(stem: nn.Module) -> None:
    for module in stem.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)


class TwoStems(nn.Module):
    """CiT's convolutional stem and RedNet's, with its involution: their tokens are added.

    Args:
        width: of the tokens.
        patch: side of a patch in pixels, an even number.
        grid: (rows, columns) of patches.
    """

    def __init__(self, width: int, patch: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid_size = grid  # by which timm resizes the positions of other resolutions
        self.conv = ConvStem(width, patch)
        projection = nn.Conv2d(CHANNELS, width, patch // 2, patch // 2)
        self.involution = nn.Sequential(*rednet.stem(), projection)
        _initialise(self.involution)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 2 + N, d): the mean of each stem's N patches, then the patches."""
        conv, involution = (stem(images).flatten(2).mT for stem in (self.conv, self.involution))
        return torch.cat((conv.mean(1, True), involution.mean(1, True), conv + involution), dim=1)


class CiT(VisionTransformerDistilled):
    """A ViT whose two distillation tokens are those of `TwoStems`, instead of learnt ones."""

    cls_token: nn.Parameter
    pos_embed: nn.Parameter

    def _pos_embed(self, x: Tensor) -> Tensor:
        """(B, 2 + N, d) -> (B, 3 + N, d), with the class token and all positions."""
        tokens = self.cls_token.expand(x.shape[0], -1, -1)  # len() would fix the batch of an export
        x = torch.cat((tokens, x), dim=1)
        return self.pos_drop(x + self.pos_embed)


class MeanToTokens(nn.Module):
    """Adds the mean of the patch tokens to each distillation token, making it depend on the image.

    The released code takes the mean before positions are added and has no learnt token; the
    difference is constant, and the token and its position can express it.

    Args:
        tokens: number of distillation tokens, which follow the class token.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 + tokens + N, d) -> the same shape."""
        classes, distilled, patches = x.tensor_split((1, 1 + self.tokens), dim=1)
        return torch.cat((classes, distilled + patches.mean(1, True), patches), dim=1)
