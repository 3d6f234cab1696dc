"""The stem of CiT (Ren et al., CVPR 2022), used for students in VkD's released code."""

import torch
from torch import Tensor, nn

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
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)


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
