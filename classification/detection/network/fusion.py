"""ViDT+'s fusion of the maps from coarse to fine (Song et al., 2022, arXiv 2204.07962, EPFF)."""

import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 64  # channels inside of a bottleneck


class Bottleneck(nn.Module):
    """A residual bottleneck that starts with ReLU: (B, d, h, w) -> the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, HIDDEN, 1)
        self.conv2 = nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1)
        self.conv3 = nn.Conv2d(HIDDEN, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv2(F.relu(self.conv1(F.relu(x)))))
        return x + self.conv3(h)


class Merge(nn.Module):
    """Adds the enlarged coarser map to a map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.smooth = nn.Conv2d(width, width, 1)
        self.before, self.after = Bottleneck(width), Bottleneck(width)

    def forward(self, coarser: Tensor, x: Tensor) -> Tensor:
        """(B, d, h', w'), (B, d, h, w) -> (B, d, h, w)."""
        size = [x.shape[2], x.shape[3]]
        enlarged = F.interpolate(coarser, size, mode="bilinear", align_corners=True)
        return self.after(self.smooth(enlarged) + self.before(x))


class Fusion(nn.Module):
    """Each map gets what the coarser ones know.

    Args:
        width: d.
        scales: number of maps.
    """

    def __init__(self, width: int, scales: int) -> None:
        super().__init__()
        self.coarsest = Bottleneck(width)
        self.merges = nn.ModuleList(Merge(width) for _ in range(scales - 1))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, d, h, w) from fine to coarse -> as many from COARSE TO FINE, as published."""
        fused = [self.coarsest(maps[-1])]
        for merge, x in zip(reversed(self.merges), reversed(maps[:-1]), strict=True):
            fused.append(merge(fused[-1], x))
        return fused
