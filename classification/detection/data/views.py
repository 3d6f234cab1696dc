"""Transforms of an image and its boxes to the network's input, by torchvision."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from classification.detection.data.coco import Objects
from classification.detection.settings import BoxAugmentSettings, CocoSettings
from gan_vkd.data.decoding import BadImage

GRID = 16  # pixels; sides are rounded down to multiples of it, as in ViDT's released code


class ShortestSide(v2.Transform):  # type: ignore[misc]
    """Resizes the shorter side to one of `sizes`, or to less so that the longer side is at most
    `longest`; both are then rounded down to multiples of GRID."""

    def __init__(self, sizes: list[int], longest: int | None = None) -> None:
        super().__init__()
        self.sizes, self.longest = sizes, longest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        sides = v2.functional.get_size(flat_inputs[0])
        size = self.sizes[_randint(0, len(self.sizes) - 1)]
        if self.longest is not None and max(sides) / min(sides) * size > self.longest:
            size = round(self.longest * min(sides) / max(sides))
        scaled = [size * side // min(sides) for side in sides]
        return {"size": [max(GRID, side - side % GRID) for side in scaled]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(v2.functional.resize, inpt, **params)


class CropWithin(v2.Transform):  # type: ignore[misc]
    """Crops to random sides between `least` and `most`, limited by the image."""

    def __init__(self, least: int, most: int) -> None:
        super().__init__()
        self.least, self.most = least, most

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        params = {}
        for side, start, length in zip(
            ("height", "width"),
            ("top", "left"),
            v2.functional.get_size(flat_inputs[0]),
            strict=True,
        ):
            drawn = _randint(min(self.least, length), min(self.most, length))
            params[side], params[start] = drawn, _randint(0, length - drawn)
        return params

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(v2.functional.crop, inpt, **params)


def _randint(least: int, most: int) -> int:
    return int(torch.randint(least, most + 1, ()))


def training_view(data: CocoSettings, augment: BoxAugmentSettings) -> v2.Compose:
    """DETR's augmentation (Carion et al. 2020): flip, then resize, or resize, crop and resize."""
    resize = ShortestSide(augment.scales, augment.longest)
    steps: list[Any] = [v2.ToImage(), v2.RandomHorizontalFlip(augment.flip)]
    if augment.crop_scales:
        crop = [ShortestSide(augment.crop_scales), CropWithin(*augment.crop_sizes), resize]
        steps.append(v2.RandomChoice([resize, v2.Compose(crop)]))
    else:
        steps.append(resize)
    tidy = [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes()]
    return v2.Compose([*steps, *tidy, *_normalize(data.mean, data.std)])


def whole_view(scale: int, longest: int, mean: Any, std: Any) -> v2.Compose:
    return v2.Compose([v2.ToImage(), ShortestSide([scale], longest), *_normalize(mean, std)])


def _normalize(mean: Any, std: Any) -> list[Any]:
    return [v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            v2.Normalize(mean, std)]  # fmt: skip


def require_aspect_ratio(image: Image.Image) -> Image.Image:
    """Returns the image; refuses one that is too narrow to be resized.

    Raises:
        BadImage: the longer side is more than 50 times the shorter one.
    """
    if max(image.size) > 50 * min(image.size):
        raise BadImage(f"{image.width}x{image.height} pixels: one side is over 50 times the other")
    return image


def with_boxes(
    view: v2.Compose, image: Image.Image, objects: Objects
) -> tuple[Tensor, Tensor, Tensor]:
    """The image (3, H, W), labels (n,), and boxes (n, 4) as centre and size relative to it."""
    size = (image.height, image.width)
    boxes: Any = tv_tensors.BoundingBoxes(
        objects.boxes,
        format=tv_tensors.BoundingBoxFormat.XYXY,
        canvas_size=size,
    )
    pixels, target = view(image, {"boxes": boxes, "labels": objects.labels})
    h, w = pixels.shape[-2:]
    boxes = v2.functional.convert_bounding_box_format(
        target["boxes"], new_format=tv_tensors.BoundingBoxFormat.CXCYWH
    )
    relative = boxes.as_subclass(Tensor) / torch.tensor([w, h, w, h])
    return pixels.as_subclass(Tensor), target["labels"], relative
