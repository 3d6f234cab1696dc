"""Samples and their grids as image files."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from gan_vkd.distill.channels import WHITE, as_map, as_rgb
from gan_vkd.networks.interface import Generator
from gan_vkd.networks.sampling import draw_inputs, draw_samples, generate
from gan_vkd.report.figures import label, save_figure
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.files import require_writable, write_atomically

FORMATS = {  # of Pillow, by suffix
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tiff": "TIFF",
}  # fmt: skip
WITHOUT_TRANSPARENCY = ("JPEG", "BMP")


def grid(images: Tensor, columns: int) -> Tensor:
    """uint8 images (N, C, H, W) -> one image (C, h, w), with white lines around them."""
    count, channels, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    page = images.new_full((channels, rows * (height + 1) + 1, columns * (width + 1) + 1), 255)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1) + 1, index % columns * (width + 1) + 1
        page[:, top : top + height, left : left + width] = image
    return page


def class_grid(generator: Generator, shares: Sequence[float], seed: int = 0) -> Tensor:
    """A grid (C, h, w) of samples, generated in one batch.

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
    """Writes a uint8 image (C, H, W) as PNG, atomically."""
    save_image(image, path, "PNG")


def save_image(image: Tensor, path: Path, kind: str) -> None:
    """Writes a uint8 image (C, H, W), atomically; kind: one of FORMATS.

    Grey with one channel, transparent with four; on white where the format has no transparency.
    """
    if len(image) == 4 and kind in WITHOUT_TRANSPARENCY:
        image = on_white(image)
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    picture = Image.fromarray(pixels[..., 0] if len(image) == 1 else pixels)
    write_atomically(path, lambda file: picture.save(file, kind, quality=95))


def save_named(image: Tensor, path: Path) -> None:
    """Writes a uint8 image (C, H, W) in the format of the file's name, one of FORMATS."""
    save_image(image, path, FORMATS[path.suffix.lower()])


def require_picture(path: Path) -> None:
    """Tries whether `save_named` could write a file, before its picture is made.

    Raises:
        SettingsError: the name ends in none of FORMATS.
        VkdError: it cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise SettingsError(f"{path}: expected a name that ends in one of {', '.join(FORMATS)}")
    require_writable(path)


def on_white(image: Tensor) -> Tensor:
    """A uint8 image (C, H, W) as RGB (3, H, W), with transparency on white."""
    rgb = as_rgb(image[None].double() / 255, as_map(WHITE).to(image.device))[0]
    return (rgb * 255).round().to(torch.uint8)


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
        axis.imshow(on_white(image).permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        axis.set_title(label(title, 40), fontsize=9)
    save_figure(figure, path)
