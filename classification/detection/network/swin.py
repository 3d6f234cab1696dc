"""ViDT's body: Swin with reconfigured attention (Song et al., ICLR 2022, section 3.1).

[PATCH] tokens attend within windows, as in Swin (Liu et al., ICCV 2021), and never to a [DET]
token. [DET] tokens attend to each other, and in the last stage to all [PATCH] tokens as well. Both
use the same weights.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, trunc_normal_
from torch import Tensor, nn

WINDOW = 7  # as published; every second block shifts its windows by half of it
MASKED = -100.0  # added to masked attention logits, as in training of the published weights


class Size(NamedTuple):
    """Channels of the first stage (they double at each), blocks and heads of the four stages."""

    channels: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    drop_path: float  # as published for this size

    @property
    def widths(self) -> list[int]:
        return [self.channels * 2**i for i in range(4)]


SIZES = {
    "nano": Size(48, (2, 2, 6, 2), (3, 6, 12, 24), 0.0),
    "tiny": Size(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2),
    "small": Size(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3),
    "base": Size(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.3),
}


class PatchContext(NamedTuple):
    """What [DET] tokens need to attend to the [PATCH] tokens, in the last stage.

    position: (B, N, C), added to the patches. bias: (B, 1, 1, N + Q), added to the attention
    logits; it masks padding.
    """

    position: Tensor
    bias: Tensor


class Attention(nn.Module):
    """Window attention of patches and attention of [DET] tokens, with shared weights."""

    position_index: Tensor

    def __init__(self, width: int, heads: int, window: int = WINDOW) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.position_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        trunc_normal_(self.position_bias, std=0.02)
        self.register_buffer("position_index", relative_position_index(window), persistent=False)

    def forward(
        self, patches: Tensor, det: Tensor, shift: int, visible: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Patches (B, h, w, C) and [DET] tokens (B, Q, C) -> the same shapes, after attention.

        Args:
            patches: normalised.
            det: normalised, with their position added.
            shift: of the windows.
            visible: patches with their position added (B, N, C), and bias, that [DET] tokens attend
                to as well; None: they attend to each other only.
        """
        x = self.proj(self._windows(patches, shift))
        q, k, v = self._split(self.qkv(det))
        bias = None
        if visible is not None:
            width = det.shape[-1]
            kv = F.linear(visible[0], self.qkv.weight[width:], self.qkv.bias[width:])
            more_k, more_v = kv.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
            k, v = torch.cat([more_k, k], 2), torch.cat([more_v, v], 2)
            bias = visible[1].to(q.dtype)
        attended = F.scaled_dot_product_attention(q, k, v, bias)
        return x, self.proj(attended.transpose(1, 2).flatten(2))

    def _windows(self, x: Tensor, shift: int) -> Tensor:
        (b, h, w, _), window = x.shape, self.window
        x = F.pad(x, (0, 0, 0, -w % window, 0, -h % window))
        _, rows, columns, _ = x.shape
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
        windows = to_windows(x, window)
        bias = self.position_bias[self.position_index].permute(2, 0, 1)[None]
        if shift:
            bias = bias + shift_bias(rows, columns, x.device, window)[:, None]
        q, k, v = (z.unflatten(0, (b, -1)).flatten(1, 2) for z in self._split(self.qkv(windows)))
        bias = bias.to(q.dtype).expand(len(windows) // b, -1, -1, -1).flatten(0, 1)[None]
        attended = F.scaled_dot_product_attention(q, k, v, bias).unflatten(1, (-1, self.heads))
        x = from_windows(attended.flatten(0, 1).transpose(1, 2).flatten(2), rows, columns, window)
        if shift:
            x = x.roll((shift, shift), (1, 2))
        return x[:, :h, :w]

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, 3C) -> three of (B, heads, N, C / heads)."""
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v


class Block(nn.Module):
    def __init__(
        self, width: int, heads: int, window: int, shifted: bool, position: int, drop_path: float
    ) -> None:
        super().__init__()
        self.shift = window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)
        self.det_position = nn.Linear(position, width)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(
        self, tokens: Tensor, grid: tuple[int, int], position: Tensor, context: PatchContext | None
    ) -> Tensor:
        """Tokens (B, N + Q, C), patches of the grid (h, w) first; position: (1, Q, P), of [DET]."""
        n = grid[0] * grid[1]
        normed = self.norm1(tokens)
        patches, det = normed[:, :n], normed[:, n:] + self.det_position(position)
        visible = None if context is None else (patches + context.position, context.bias)
        patches, det = self.attention(patches.unflatten(1, grid), det, self.shift, visible)
        tokens = tokens + self.drop_path(torch.cat([patches.flatten(1, 2), det], 1))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class Merge(nn.Module):
    """Merges 2 x 2 patches into one; [DET] tokens, repeated, go through the same layers."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, out, bias=False)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        h, w = grid
        patches, det = tokens[:, : h * w].unflatten(1, grid), tokens[:, h * w :]
        patches = F.pad(patches, (0, 0, 0, w % 2, 0, h % 2))
        four = [patches[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        tokens = torch.cat([torch.cat(four, -1).flatten(1, 2), det.repeat(1, 1, 4)], 1)
        return self.reduction(self.norm(tokens)), ((h + 1) // 2, (w + 1) // 2)


class Stage(nn.Module):
    def __init__(
        self,
        width: int,
        out: int,
        heads: int,
        window: int,
        position: int,
        drop_paths: list[float],
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, window, bool(i % 2), position, rate)
            for i, rate in enumerate(drop_paths)
        )
        self.merge = Merge(width, out)


class PatchEmbed(nn.Module):
    """Images (B, 3, H, W) -> (B, h, w, C), one token for each 4 x 4 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 4, stride=4)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        h, w = images.shape[-2:]
        return self.norm(self.proj(F.pad(images, (0, -w % 4, 0, -h % 4))).permute(0, 2, 3, 1))


class BodyOutput(NamedTuple):
    """maps: (B, C, h, w), of stages 2 to 4, and the last one after merging. det: (B, Q, C)."""

    maps: list[Tensor]
    det: Tensor


class Body(nn.Module):
    """ViDT's body.

    Args:
        size: of Swin.
        queries: Q, number of [DET] tokens.
        width: d, of the [DET] tokens' position and of the last merged map.
        drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
        window: side of the windows in patches.
    """

    def __init__(
        self, size: Size, queries: int, width: int, drop_path: float, window: int = WINDOW
    ) -> None:
        super().__init__()
        widths = size.widths
        self.embed = PatchEmbed(size.channels)
        self.det_token = nn.Parameter(torch.zeros(1, queries, size.channels))
        self.det_position = nn.Parameter(torch.zeros(1, queries, width))
        rates = iter(np.linspace(0, drop_path, sum(size.depths)).tolist())
        self.stages = nn.ModuleList(
            Stage(c, out, heads, window, width, [next(rates) for _ in range(depth)])
            for c, out, heads, depth in zip(
                widths, [*widths[1:], width], size.heads, size.depths, strict=True
            )
        )
        self.apply(_initialize)
        trunc_normal_(self.det_token, std=0.02)
        trunc_normal_(self.det_position, std=0.02)

    def forward(self, images: Tensor, padding: Tensor) -> BodyOutput:
        """Normalised images (B, 3, H, W) and their padding (B, H, W), true outside of the image."""
        patches = self.embed(images)
        b, *grid = patches.shape[:3]
        padding = shrink(padding, (max(1, grid[0] // 8), max(1, grid[1] // 8)))
        h, w = grid
        tokens = torch.cat([patches.flatten(1, 2), self.det_token.expand(b, -1, -1)], 1)
        maps = []
        for i, stage in enumerate(self.stages):
            last = i == len(self.stages) - 1
            context = self._context(padding, (h, w), tokens.shape[-1]) if last else None
            for block in stage.blocks:  # type: ignore[union-attr]
                tokens = block(tokens, (h, w), self.det_position, context)
            if i:
                maps.append(to_map(tokens, (h, w)))
            det = tokens[:, h * w :]
            tokens, (h, w) = stage.merge(tokens, (h, w))  # type: ignore[operator]
        maps.append(to_map(tokens, (h, w)))
        return BodyOutput(maps, det)

    def _context(self, padding: Tensor, grid: tuple[int, int], width: int) -> PatchContext:
        padding = shrink(padding, grid)
        bias = F.pad(padding.flatten(1).float() * MASKED, (0, self.det_token.shape[1]))
        return PatchContext(sine_position(padding, width).flatten(1, 2), bias[:, None, None])


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (B, N + Q, C) -> the map (B, C, h, w) of the patches."""
    return tokens[:, : grid[0] * grid[1]].unflatten(1, grid).permute(0, 3, 1, 2)


def to_windows(x: Tensor, window: int) -> Tensor:
    """(B, h, w, C), h and w multiples of the window -> (B windows, window^2, C)."""
    x = x.unflatten(1, (-1, window)).unflatten(3, (-1, window))
    return x.transpose(2, 3).flatten(0, 2).flatten(1, 2)


def from_windows(windows: Tensor, rows: int, columns: int, window: int) -> Tensor:
    """The inverse of `to_windows`."""
    x = windows.unflatten(1, (window, window))
    x = x.unflatten(0, (-1, rows // window, columns // window))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def relative_position_index(window: int = WINDOW) -> Tensor:
    """(window^2, window^2): the index into the table of position biases for each pair."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = (c.flatten()[:, None] - c.flatten()[None] + window - 1 for c in (y, x))
    return y * (2 * window - 1) + x


@lru_cache(maxsize=8)
def shift_bias(rows: int, columns: int, device: torch.device, window: int = WINDOW) -> Tensor:
    """(windows, window^2, window^2): masks pairs that are not neighbours in the unshifted image."""

    def regions(length: int) -> Tensor:
        places = torch.arange(length, device=device)
        return (places >= length - window).long() + (places >= length - window // 2).long()

    region = 3 * regions(rows)[:, None] + regions(columns)[None]
    windows = to_windows(region[None, ..., None], window).squeeze(-1)
    return (windows[:, :, None] != windows[:, None]).float() * MASKED


def shrink(padding: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W) bool -> (B, h, w), by nearest neighbour."""
    if padding.shape[1:] == size:
        return padding
    return F.interpolate(padding[None].float(), size=size)[0].bool()


def sine_position(padding: Tensor, width: int) -> Tensor:
    """(B, h, w) bool -> (B, h, w, width): sines and cosines of positions in the unpadded image.

    Carion et al., ECCV 2020 (DETR), with coordinates normalised to 2 pi.
    """
    inside = (~padding).float()
    half = width // 2
    i = torch.arange(half, device=padding.device)
    periods = 10000 ** (2 * (i // 2) / half)
    position = []
    for dim in (1, 2):
        place = inside.cumsum(dim)
        place = place / (place.select(dim, -1).unsqueeze(dim) + 1e-6) * 2 * math.pi
        angle = place[..., None] / periods
        position.append(torch.stack([angle[..., ::2].sin(), angle[..., 1::2].cos()], -1).flatten(3))
    return torch.cat(position, -1)
