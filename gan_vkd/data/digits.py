"""scikit-learn's 1,797 handwritten digits, which need no download."""

from functools import cache

import numpy as np
import torch
from PIL import Image

from gan_vkd.data.image_set import SOURCES, ImageSet, draw_subset
from gan_vkd.data.settings import DataSettings
from gan_vkd.data.shape import Shape


@SOURCES.register("digits")
def digits(settings: DataSettings, train: bool) -> ImageSet:
    """1,500 training images; the other 297 are the held-out set. Grey as RGB, or in one channel."""
    everything = _everything(settings.shape)
    chosen = draw_subset(everything.names, everything.labels.tolist(), 1500, seed=0)
    if not train:
        chosen = sorted(set(range(len(everything))) - set(chosen))
    return everything.subset(chosen)


@cache
def _everything(shape: Shape) -> ImageSet:
    """All digits, stretched to the shape."""
    from sklearn.datasets import load_digits

    found = load_digits()
    size = (shape.width, shape.height)
    channels = 1 if shape.channels == 1 else 3
    images = [
        np.asarray(
            Image.fromarray((image * 255 / 16).astype(np.uint8)).resize(
                size, Image.Resampling.BICUBIC
            )
        )
        for image in found.images
    ]
    labels = [int(label) for label in found.target]
    names = [f"{i:04d}" for i in range(len(labels))]
    grey = torch.from_numpy(np.stack(images))[:, None].expand(-1, channels, -1, -1).contiguous()
    return ImageSet(grey, torch.tensor(labels), [str(c) for c in range(10)], names)
