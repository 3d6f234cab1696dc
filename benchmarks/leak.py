"""Measures how often real and deliberately damaged images look like leaked augmentation.

    python benchmarks/leak.py IMAGES.zip [--resolution 32] [--damaged OUT.zip]

Prints the shares of grey squares and grey borders (gan_vkd/evaluation/leak.py) in the images as
they are, and in all of them after DiffAugment's cutout or translation: alone, with noise of 4 and
of 8 levels of 255, and blurred by a 3x3 mean with noise of 4 levels. `--damaged` writes every image
once, after translation and cutout: data of which a generator must learn the leak. Seed 0.
"""

import argparse
import io
import zipfile

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from gan_vkd.data.augment import cutout, translation
from gan_vkd.data.image_set import ImageSet, to_network
from gan_vkd.data.sets import load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.evaluation.leak import leaked


def blurred(images: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)


def to_pixels(images: Tensor) -> Tensor:
    return (images * 127.5 + 127.5).round().clamp(0, 255).byte()


def write_damaged(data: ImageSet, file: str) -> None:
    """Writes the images (N, 3, R, R) as PNG, in folders of their classes."""
    torch.manual_seed(0)
    damaged = to_pixels(cutout(translation(to_network(data.images)))).permute(0, 2, 3, 1).numpy()
    with zipfile.ZipFile(file, "w") as out:
        for i, (image, label) in enumerate(zip(damaged, data.labels.tolist(), strict=True)):
            png = io.BytesIO()
            Image.fromarray(image).save(png, "png")
            out.writestr(f"{data.classes[label]}/{i:05d}.png", png.getvalue())


def row(name: str, images: Tensor) -> str:
    pixels = to_pixels(images)
    square, border = leaked(pixels).double().mean(0).tolist()
    return f"| {name} | {square:.2%} | {border:.2%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images")
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--damaged")
    given = parser.parse_args()
    settings = DataSettings(source=given.images, heldout=None, resolution=given.resolution)
    data = load_training_set(settings)
    if given.damaged:
        write_damaged(data, given.damaged)
    images = to_network(data.images)
    print(f"| {len(images)} images | grey squares | grey borders |\n|---|---|---|")
    print(row("as they are", images))
    for augment in (cutout, translation):
        torch.manual_seed(0)
        damaged, noise = augment(images), torch.randn_like(images) / 127.5
        name = augment.__name__
        print(row(name, damaged))
        print(row(f"{name}, noise 4", damaged + 4 * noise))
        print(row(f"{name}, noise 8", damaged + 8 * noise))
        print(row(f"{name}, blurred, noise 4", blurred(damaged) + 4 * noise))


if __name__ == "__main__":
    main()
