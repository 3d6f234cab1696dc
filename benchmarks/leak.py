"""Measures how often real and deliberately damaged images look like leaked augmentation.

    python benchmarks/leak.py IMAGES.zip [--resolution 32]

Prints the shares of grey squares and grey borders (gan_vkd/evaluation/leak.py) in the images as
they are, and in all of them after DiffAugment's cutout or translation: alone, with noise of 4 and
of 8 levels of 255, and blurred by a 3x3 mean with noise of 4 levels. Seed 0.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_vkd.data.augment import cutout, translation
from gan_vkd.data.image_set import to_network
from gan_vkd.data.sets import load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.evaluation.leak import leaked


def blurred(images: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)


def row(name: str, images: Tensor) -> str:
    pixels = (images * 127.5 + 127.5).round().clamp(0, 255).byte()
    square, border = leaked(pixels).double().mean(0).tolist()
    return f"| {name} | {square:.2%} | {border:.2%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images")
    parser.add_argument("--resolution", type=int, default=32)
    given = parser.parse_args()
    data = DataSettings(source=given.images, heldout=None, resolution=given.resolution)
    images = to_network(load_training_set(data).images)
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
