"""Samples and their grids as image files."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from gan_vkd.networks.interface import Generator
from gan_vkd.networks.sampling import draw_inputs, draw_samples, generate
from gan_vkd.report.figures import label, save_figure
from gan_vkd.runtime.files import write_atomically

FORMATS = {  # of Pillow, by suffix
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tiff": "TIFF",
}  # fmt: skip


def grid(images: Tensor, columns: int) -> Tensor:
    """uint8 images (N, 3, R, R) -> one image (3, H, W)."""
    from torchvision.utils import make_grid  # its import takes longer than drawing samples

    return make_grid(images, nrow=columns, padding=1, pad_value=255)


def class_grid(generator: Generator, shares: Sequence[float], seed: int = 0) -> Tensor:
    """A grid (3, H, W) of samples, generated in one batch.

    One row for each class (at most ten, evenly spread), or ten mixed rows for a single class.
    """
    present = [c for c, share in enumerate(shares) if share > 0]
    rows = present[:: max(1, len(present) // 10)][:10]
    if len(rows) == 1:
        return grid(draw_samples(generator, list(shares), 100, 100, seed), 10)
    one_hot = [[float(c == row) for c in range(len(shares))] for row in rows]
    drawn = [draw_inputs(generator, s, 10, seed + i) for i, s in enumerate(one_hot)]
    latents, labels = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return grid(generate(generator, latents, labels, len(labels)), 10)


def save_png(image: Tensor, path: Path) -> None:
    """Writes a uint8 image (3, H, W) as PNG, atomically."""
    save_image(image, path, "PNG")


def save_image(image: Tensor, path: Path, kind: str) -> None:
    """Writes a uint8 image (3, H, W), atomically; kind: one of FORMATS."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    write_atomically(path, lambda file: picture.save(file, kind, quality=95))


def save_side_by_side(images: Sequence[Tensor], titles: Sequence[str], path: Path) -> None:
    """Writes grids side by side, at most five in a row, each under its title."""
    from matplotlib.figure import Figure

    columns = min(5, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(3.6 * columns, 4.0 * rows), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes:
        axis.axis("off")
    for axis, image, title in zip(axes[: len(images)], images, titles, strict=True):
        axis.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        axis.set_title(label(title, 40), fontsize=9)
    save_figure(figure, path)
