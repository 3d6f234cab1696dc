"""Transforms of images to network inputs: DeiT's augmentation and the test transform, by timm."""

import itertools
from typing import Any

from PIL import Image
from timm.data.auto_augment import posterize
from timm.data.transforms_factory import create_transform
from torchvision import transforms

from classification.recognition.data.resident import PADDING
from classification.recognition.settings import AugmentSettings, InputSettings
from gan_vkd.runtime.errors import SettingsError, one_line


def training_transform(data: InputSettings, augment: AugmentSettings) -> Any:
    """PIL image -> normalised (3, R, R), with DeiT's augmentation.

    Raises:
        SettingsError: a policy that timm cannot parse.
    """
    try:
        transform = create_transform(
            data.resolution,
            is_training=True,
            scale=augment.scale,
            hflip=augment.flip,
            color_jitter=augment.color_jitter,
            auto_augment=augment.policy,
            interpolation="bicubic",
            mean=data.mean,
            std=data.std,
            re_prob=augment.erasing,
            re_mode="pixel",
        )
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"augment.policy = {augment.policy}: timm cannot parse it "
            f"({one_line(error)}); expected e.g. rand-m9-mstd0.5-inc1, 3a or null"
        ) from None
    if augment.erasing:
        transform.transforms[-1].device = "cpu"
    for step in transform.transforms:
        for op in itertools.chain(getattr(step, "ops", []), *getattr(step, "policy", [])):
            if op.aug_fn is posterize:
                op.aug_fn = _posterize_to_one_bit
    if augment.crop == "padded":
        transform.transforms[0] = transforms.RandomCrop(data.resolution, padding=PADDING)
    return transform


def _posterize_to_one_bit(image: Image.Image, bits: int, **options: Any) -> Image.Image:
    """posterize with at least one bit: timm's strongest level has none, which Pillow 13 refuses."""
    return posterize(image, max(1, bits), **options)


def test_transform(data: InputSettings, crop: float) -> Any:
    """PIL image -> normalised (3, R, R): resize and centre crop; images in memory stay whole."""
    if data.kind == "memory":
        return transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
        )
    return create_transform(
        data.resolution,
        interpolation="bicubic",
        mean=data.mean,
        std=data.std,
        crop_pct=crop,
    )
