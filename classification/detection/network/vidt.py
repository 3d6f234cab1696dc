"""ViDT: a body with [DET] tokens and a neck without an encoder (Song et al., ICLR 2022).

The body and each layer of the neck predict classes and a box for each [DET] token; each layer
refines the box of the one before (Zhu et al., ICLR 2021, iterative refinement).
"""

import math
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.detection.network.deformable import DeformableAttention
from classification.detection.network.fusion import Bottleneck, Fusion
from classification.detection.network.swin import SIZES, WINDOW, Body, Size, shrink
from gan_vkd.distill.precision import at_least_float32

HEADS, GROUPS = 8, 32  # of attention and group norm
PRIOR = 0.01  # initial probability of each class (Lin et al., ICCV 2017)


class Tokens(NamedTuple):
    """The tokens that are distilled.

    patches: the neck's input maps (B, d, h, w) at four scales. paddings: (B, h, w) of each.
    body: (B, Q, d), [DET] tokens at the neck's input. neck: (K, B, Q, d), [DET] tokens of each
    predictor, the body's first.
    """

    patches: list[Tensor]
    paddings: list[Tensor]
    body: Tensor
    neck: Tensor


class Outputs(NamedTuple):
    """The outputs of K predictors; the last one is the detector's prediction.

    logits: (K, B, Q, C). boxes: (K, B, Q, 4), centre and size relative to the unpadded image.
    overlaps: (K, B, Q), logits of the boxes' IoU with their objects; None without `iou_aware`.
    """

    logits: Tensor
    boxes: Tensor
    tokens: Tokens
    overlaps: Tensor | None = None


class Head(nn.Module):
    """An MLP of three layers: (..., width) -> (..., out)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, size) for size in (width, width, out))

    def forward(self, x: Tensor) -> Tensor:
        first, second, last = self.layers
        return last(F.relu(second(F.relu(first(x)))))


class BoxHead(Head):
    """A head of four outputs, which are 0 at first."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 4)
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]


class Reduce(nn.Sequential):
    """Maps (B, C, h, w) -> (B, d, h, w), by a 1x1 convolution and group norm over the whole map."""

    def __init__(self, width: int, out: int) -> None:
        conv = nn.Conv2d(width, out, 1)
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        super().__init__(conv, nn.GroupNorm(min(GROUPS, out // 4), out))

    def tokens(self, x: Tensor) -> Tensor:
        """(B, Q, C) -> (B, Q, d)."""
        return self(x.mT[..., None]).squeeze(-1).mT


class NeckLayer(nn.Module):
    """Self-attention of [DET] tokens, their attention to the maps, and an MLP."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.cross_attn = DeformableAttention(width, heads=HEADS)
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = nn.MultiheadAttention(width, HEADS, dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        for parameter in [*self.self_attn.parameters(), self.linear1.weight, self.linear2.weight]:
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        det: Tensor,
        position: Tensor,
        boxes: Tensor,
        maps: list[Tensor],
        paddings: list[Tensor],
    ) -> Tensor:
        """[DET] tokens (B, Q, d), their position, boxes (B, Q, L, 4) to attend to, and maps."""
        query = det + position
        attended = self.self_attn(query, query, det, need_weights=False)[0]
        det = self.norm2(det + self.dropout(attended))
        attended = self.cross_attn(det + position, boxes, maps, paddings)
        det = self.norm1(det + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(det)))
        return self.norm3(det + self.dropout(self.linear2(hidden)))


class ViDT(nn.Module):
    """The detector.

    Args:
        size: a name in SIZES, or a size.
        classes: C, the largest category number plus one; COCO's numbers go to 90.
        queries: Q, most objects that are detected in an image.
        width: d, of the neck.
        layers: number of layers of the neck.
        hidden: width of the neck's MLPs.
        dropout: in the neck.
        drop_path: of the body; None: as published for the size.
        fusion: whether the maps are fused from coarse to fine, as in ViDT+.
        iou_aware: whether each predictor also predicts the IoU of its boxes, as in ViDT+.
        window: of the body, in patches.
    """

    def __init__(
        self,
        size: str | Size,
        classes: int = 91,
        *,
        queries: int = 100,
        width: int = 256,
        layers: int = 6,
        hidden: int = 1024,
        dropout: float = 0.1,
        drop_path: float | None = None,
        fusion: bool = False,
        iou_aware: bool = False,
        window: int = WINDOW,
    ) -> None:
        super().__init__()
        size = SIZES[size] if isinstance(size, str) else size
        self.classes, self.width = classes, width
        rate = size.drop_path if drop_path is None else drop_path
        self.body = Body(size, queries, width, rate, window)
        channels = [*size.widths[1:], width]
        self.reduce_maps = nn.ModuleList(Reduce(c, width) for c in channels)
        self.fusion = Fusion(width, len(channels)) if fusion else None
        self.reduce_det = Reduce(size.widths[-1], width)
        self.reduce_position = Reduce(width, width)
        self.reference = nn.Linear(width, 2)
        self.neck = nn.ModuleList(NeckLayer(width, hidden, dropout) for _ in range(layers))
        self.class_heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(layers + 1))
        self.box_heads = nn.ModuleList(BoxHead(width) for _ in range(layers + 1))
        self.overlap_heads = (
            nn.ModuleList(Head(width, 1) for _ in range(layers + 1)) if iou_aware else None
        )
        self.idle = Idle(size, width, fusion)
        nn.init.xavier_uniform_(self.reference.weight)
        with torch.no_grad():
            for head in self.class_heads:
                head.bias.fill_(-math.log((1 - PRIOR) / PRIOR))  # type: ignore[operator]
            self.box_heads[0].layers[-1].bias[2:] = -2.0  # type: ignore[index,union-attr]

    def forward(self, images: Tensor, padding: Tensor, layers: int | None = None) -> Outputs:
        """The outputs of the body and of the neck's first layers.

        Args:
            images: (B, 3, H, W), normalised.
            padding: (B, H, W), true at their right and below.
            layers: number of the neck's layers that are computed (decoding layer drop); None: all.
        """
        features = self.body(images, padding)
        maps = [reduce(x) for reduce, x in zip(self.reduce_maps, features.maps, strict=True)]
        if self.fusion is not None:
            maps = self.fusion(maps)
        paddings = [shrink(padding, (x.shape[2], x.shape[3])) for x in maps]
        inside = torch.stack([share_inside(p) for p in paddings], 1).repeat(1, 1, 2)[:, None]
        det = body = self.reduce_det.tokens(features.det)
        position = self.reduce_position.tokens(self.body.det_position)
        place = F.pad(inverse_sigmoid(at_least_float32(self.reference(position)).sigmoid()), (0, 2))
        tokens: list[Tensor] = []
        logits: list[Tensor] = []
        boxes: list[Tensor] = []
        heads = zip([None, *self.neck], self.class_heads, self.box_heads, strict=True)
        for layer, class_head, box_head in islice(heads, None if layers is None else layers + 1):
            if layer is not None:
                box = boxes[-1].detach()
                place = inverse_sigmoid(box)
                det = layer(det, position, box[:, :, None] * inside, maps, paddings)
            tokens.append(det)
            logits.append(class_head(det))
            boxes.append((at_least_float32(box_head(det)) + place).sigmoid())
        distilled = Tokens(maps, paddings, body, torch.stack(tokens))
        overlaps = None
        if self.overlap_heads is not None:
            pairs = zip(self.overlap_heads, tokens, strict=False)  # tokens of fewer layers
            overlaps = torch.stack([head(det).squeeze(-1) for head, det in pairs])
        return Outputs(torch.stack(logits), torch.stack(boxes), distilled, overlaps)


class Idle(nn.ParameterDict):
    """Unused weights of the published files, kept so that a checkpoint can be converted back.

    They are counted in the published 15.73, 37.96, 60.47 and 99.96 million parameters.
    """

    def __init__(self, size: Size, width: int, fusion: bool = False) -> None:
        shapes: dict[str, tuple[int, ...]] = {"transformer.level_embed": (4, width)}
        for i, (c, out) in enumerate(zip(size.widths, [*size.widths[1:], width], strict=True)):
            merge = f"backbone.layers.{i}.downsample"
            shapes[f"{merge}.expansion.weight"] = (out, c)
            norms = [f"{merge}.norm2", *([f"backbone.norm{i}"] if i else [])]
            shapes |= {f"{norm}.{part}": (c,) for norm in norms for part in ("weight", "bias")}
        if fusion:  # of the coarsest map, which has no coarser one
            block = "fusion.multi_scaler.refinenet_3"
            shapes |= {f"{block}.smoothing.weight": (width, width, 1, 1)}
            shapes |= {f"{block}.smoothing.bias": (width,)}
            for part, tensor in Bottleneck(width).state_dict().items():
                shapes[f"{block}.resConfUnit1.{part}"] = tuple(tensor.shape)
        super().__init__(
            {
                name.replace(".", "/"): nn.Parameter(torch.zeros(shape), requires_grad=False)
                for name, shape in shapes.items()
            }
        )


def share_inside(padding: Tensor) -> Tensor:
    """Padding (B, h, w) -> (B, 2): the shares of width and height that the image fills."""
    inside = (~padding).float()
    return torch.stack([inside[:, 0].mean(1), inside[:, :, 0].mean(1)], 1)


def inverse_sigmoid(x: Tensor) -> Tensor:
    """The logit, with both x and 1 - x at least 1e-5."""
    return (x.clamp(1e-5, 1) / (1 - x).clamp(1e-5, 1)).log()
