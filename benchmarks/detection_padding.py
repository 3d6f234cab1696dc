"""What padding does in detection: python benchmarks/detection_padding.py [SEEDS]

Prints the share of padding among images of COCO that are padded together, and by how much the
gradient of VkD's distillation changes where padded patches are left out, and where statistics are
those of all images instead of those of each pair, as on the GPUs of the released code. Student
(ViDT-nano) and teacher (ViDT-tiny) have random weights. Reads ../shared/data/coco-mini.
"""

import random
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from classification.detection.data.coco import Coco
from classification.detection.data.feed import Batch, Viewed, collate
from classification.detection.data.views import training_view
from classification.detection.distillation import DetectionVkD, rows
from classification.detection.network.vidt import Tokens, ViDT
from classification.detection.settings import (
    BoxAugmentSettings,
    CocoSettings,
    DistillationSettings,
)

ROOT = Path(__file__).resolve().parents[2] / "shared/data/coco-mini"
IMAGES, SIDE, WIDTH, DRAWS = 8, 224, 256, 4000


def share_of_padding(coco: Coco, together: int, scales: list[int]) -> float:
    """The share of padding in the area of batches, with the shorter side drawn from scales."""
    draw, whole, filled = random.Random(0), 0, 0
    for _ in range(DRAWS):
        sizes = []
        for entry in draw.sample(coco.images, together):
            sides = (entry["height"], entry["width"])
            scale = min(draw.choice(scales) / min(sides), BoxAugmentSettings().longest / max(sides))
            sizes.append([int(scale * side) // 16 * 16 for side in sides])
        whole += together * max(h for h, _ in sizes) * max(w for _, w in sizes)
        filled += sum(h * w for h, w in sizes)
    return 1 - filled / whole


def batch_of(coco: Coco, seed: int) -> Batch:
    augment = BoxAugmentSettings(scales=[SIDE], longest=SIDE * 5 // 3, flip=0, crop_scales=[])
    items = Viewed(coco, training_view(CocoSettings(root=""), augment), substitute=False)
    first = seed * IMAGES
    return collate([items[((seed, i), (first + i) % coco.count)] for i in range(IMAGES)])


def standardized(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt()


def changes(coco: Coco, seed: int) -> tuple[float, float]:
    """Relative changes of the student's gradient: padding left out; statistics of all images."""
    torch.manual_seed(seed)
    student, teacher = ViDT("nano", drop_path=0, dropout=0), ViDT("tiny").eval()
    counted = DetectionVkD(DistillationSettings(padding="counted"), WIDTH, WIDTH)
    left_out = DetectionVkD(DistillationSettings(padding="left_out"), WIDTH, WIDTH)
    left_out.load_state_dict(counted.state_dict())
    learnt = [p for p in student.parameters() if p.requires_grad]

    def tokens(part: Batch) -> tuple[Tokens, Tokens]:
        with torch.no_grad():
            theirs = teacher(part.images, part.padding).tokens
        return student(part.images, part.padding).tokens, theirs

    def change(theirs: Tensor, ours: Tensor) -> float:
        a, b = (
            torch.cat([
                x.flatten()
                for x in torch.autograd.grad(loss, learnt, retain_graph=True, allow_unused=True)
                if x is not None
            ])
            for loss in (theirs, ours)
        )  # fmt: skip
        return float((a - b).norm() / a.norm())

    batch = batch_of(coco, seed)
    both = tokens(batch)
    of_padding = change(*(torch.stack([*d(*both).values()]).sum() for d in (counted, left_out)))

    pairs = [tokens(part) for part in batch.chunk(IMAGES // 2)]
    each = sum(torch.stack([*counted(*pair).values()]).sum() for pair in pairs) / len(pairs)
    flat = [[[*p, body, neck] for p, body, neck in map(rows, pair)] for pair in pairs]
    whole = torch.zeros(())
    for i, project in enumerate(counted.projections):
        x = torch.cat([project(ours[i]) for ours, _ in flat])
        y = torch.cat([theirs[i] for _, theirs in flat])
        whole = whole + F.smooth_l1_loss(standardized(x), standardized(y))
    return of_padding, change(each, whole)


def main() -> None:
    coco = Coco(ROOT, "train2017")
    for together in (2, 8, 16):
        of_evaluation = share_of_padding(coco, together, [800])
        of_training = share_of_padding(coco, together, BoxAugmentSettings().scales)
        print(f"{together} images: {of_evaluation:.1%} padding at 800 pixels, {of_training:.1%} at "
              "the sizes of training")  # fmt: skip
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
        of_padding, of_statistics = changes(coco, seed)
        print(f"seed {seed}: the gradient changes by {of_padding:.1%} without padded patches, by "
              f"{of_statistics:.1%} with statistics of {IMAGES} images instead of pairs",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
