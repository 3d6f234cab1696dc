"""Multi-scale deformable attention (Zhu et al., ICLR 2021, equation 3) in plain PyTorch."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sample_and_sum(maps: Sequence[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the maps' values at the locations, interpolated bilinearly, zero outside.

    Args:
        maps: L levels of (B, heads, c, h, w).
        locations: (B, Q, heads, L, points, 2), x and y in [0, 1] from corner to corner.
        weights: (B, Q, heads, L, points).

    Returns:
        (B, Q, heads * c).
    """
    b, q, heads, _, points, _ = locations.shape
    grids = (
        (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    )  # (L, B heads, Q, points, 2)
    sampled = torch.stack(
        [
            F.grid_sample(level.flatten(0, 1), grid, align_corners=False)
            for level, grid in zip(maps, grids, strict=True)
        ],
        dim=3,
    )  # (B heads, c, Q, L, points)
    weights = weights.permute(0, 2, 1, 3, 4).reshape(b * heads, 1, q, -1, points)
    return (sampled * weights).sum((3, 4)).view(b, -1, q).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Attention of each query to a few points of every level, around the query's box.

    Args:
        width: d, of queries and values.
        levels, heads, points: their numbers.
    """

    def __init__(self, width: int, levels: int = 4, heads: int = 8, points: int = 4) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self._initialize()

    @torch.no_grad()
    def _initialize(self) -> None:
        """Gives each head a direction of its own, with its points one, two, ... steps away."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions /= directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)[:, None]
        offsets = (directions[:, None, None] * steps).expand(-1, self.levels, -1, -1)
        self.sampling_offsets.bias.copy_(offsets.flatten())
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def values(self, maps: Sequence[Tensor], paddings: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, d, h, w) -> values (B, heads, c, h, w), zero where padded."""
        values = []
        for level, padding in zip(maps, paddings, strict=True):
            x = self.value_proj(level.permute(0, 2, 3, 1)).masked_fill(padding[..., None], 0.0)
            values.append(x.permute(0, 3, 1, 2).unflatten(1, (self.heads, -1)))
        return values

    def forward(
        self,
        queries: Tensor,
        boxes: Tensor,
        maps: Sequence[Tensor],
        paddings: Sequence[Tensor],
    ) -> Tensor:
        """Queries (B, Q, d) -> (B, Q, d).

        Args:
            queries: (B, Q, d), with their position added.
            boxes: (B, Q, L, 4), centre and size on each level's padded map, in [0, 1].
            maps: L of (B, d, h, w).
            paddings: L of (B, h, w), true where there is no image.
        """
        shape = (self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(queries).unflatten(-1, (*shape, 2))
        weights = self.attention_weights(queries).unflatten(-1, (self.heads, -1)).softmax(-1)
        centre, extent = boxes[:, :, None, :, None, :2], boxes[:, :, None, :, None, 2:]
        locations = centre + offsets / self.points * extent / 2
        values, weights = self.values(maps, paddings), weights.unflatten(-1, shape[1:])
        with torch.autocast(queries.device.type, enabled=False):  # half is too coarse for places
            attended = sample_and_sum(
                [x.to(locations.dtype) for x in values], locations, weights.to(locations.dtype)
            )
        return self.output_proj(attended)
