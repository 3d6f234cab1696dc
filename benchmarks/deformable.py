"""Times deformable attention, forward and backward: python benchmarks/deformable.py

One layer of ViDT's neck on two images of 800 x 1333: with grid sampling, compiled, and with samples
gathered by index and interpolated explicitly, the usual implementation without grid sampling.
"""

import torch
from timing import machine, side_by_side

from classification.detection.network.deformable import DeformableAttention, sample_and_sum

ROUNDS, IMAGES, QUERIES = 15, 2, 100
SIZES = [(100, 167), (50, 84), (25, 42), (13, 21)]


def gathered(maps, locations, weights):
    """Computes the same sum with four gathers per level."""
    b, q, heads, _, points, _ = locations.shape
    total = 0
    for level, x in enumerate(maps):
        h, w = x.shape[-2:]
        place = locations[:, :, :, level].permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(1, 2)
        place = place * torch.tensor([w, h], device=x.device) - 0.5
        low = place.floor()
        flat = x.flatten(0, 1).flatten(2)
        share = weights[:, :, :, level].permute(0, 2, 1, 3).flatten(0, 1).flatten(1, 2)
        for dy in (0, 1):
            for dx in (0, 1):
                corner = low + torch.tensor([dx, dy], device=x.device)
                inside = (corner >= 0).all(-1) & (corner[..., 0] < w) & (corner[..., 1] < h)
                weight = (1 - (place - corner).abs()).prod(-1) * inside * share
                column, row = corner[..., 0].clamp(0, w - 1), corner[..., 1].clamp(0, h - 1)
                index = (row * w + column).long()[:, None].expand(-1, flat.shape[1], -1)
                part = flat.gather(2, index) * weight[:, None]
                total = total + part.unflatten(2, (q, points)).sum(3)
    return total.unflatten(0, (b, heads)).flatten(1, 2).transpose(1, 2)


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    attention = DeformableAttention(256).to(device)
    values = [torch.randn(IMAGES, 8, 32, *size, device=device).requires_grad_() for size in SIZES]
    locations = torch.rand(IMAGES, QUERIES, 8, 4, 4, 2, device=device, requires_grad=True)
    weights = torch.rand(IMAGES, QUERIES, 8, 4, 4, device=device, requires_grad=True)
    error = (
        gathered(values, locations, weights) - sample_and_sum(values, locations, weights)
    ).abs()
    assert error.max() < 1e-4
    queries = torch.randn(IMAGES, QUERIES, 256, device=device)
    boxes = torch.rand(IMAGES, QUERIES, 4, 4, device=device)
    maps = [torch.randn(IMAGES, 256, *size, device=device).requires_grad_() for size in SIZES]
    paddings = [torch.zeros(IMAGES, *size, dtype=torch.bool, device=device) for size in SIZES]
    compiled, whole = torch.compile(sample_and_sum), torch.compile(attention)
    inputs = (values, locations, weights)
    steps = {
        "sampling": lambda: sample_and_sum(*inputs).sum().backward(),
        "sampling, compiled": lambda: compiled(*inputs).sum().backward(),
        "sampling, gathered": lambda: gathered(*inputs).sum().backward(),
        "the layer": lambda: attention(queries, boxes, maps, paddings).sum().backward(),
        "the layer, compiled": lambda: whole(queries, boxes, maps, paddings).sum().backward(),
    }
    found = side_by_side(steps, ROUNDS)
    print(f"{IMAGES} images, {QUERIES} queries, levels {SIZES}, median of {ROUNDS} rounds")
    print(f"{machine()}\n")
    print("| forward and backward | ms |")
    print("|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {1000 * seconds:.1f} |")


if __name__ == "__main__":
    main()
