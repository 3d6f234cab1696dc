"""Images with boxes in COCO's format, read and checked once."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from classification.detection.config import CocoSettings
from gan_vkd.errors import SettingsError, VkdError
from gan_vkd.images import BadImage, FolderSource, open_rgb


class Objects(NamedTuple):
    """What is to be found in one image, crowds left out.

    boxes: (n, 4), corners in pixels. labels: (n,), numbers of categories.
    """

    boxes: Tensor
    labels: Tensor


class Coco:
    """The images of a split and their objects.

    Boxes that lie outside of their image or have no area are told once and left out; crowds are
    for the evaluation alone, which ignores what is found in them.

    Args:
        root: a folder as COCO's.
        split: of its images, such as train2017.
        num_images: of a subset, or None for all.
        seed: that draws it.

    Raises:
        SettingsError: a subset larger than the set.
        VkdError: a missing file or folder, no JSON, an entry that is incomplete or points nowhere.
    """

    def __init__(
        self, root: Path, split: str, num_images: int | None = None, seed: int = 0
    ) -> None:
        self.file = root / "annotations" / f"instances_{split}.json"
        self.source = FolderSource(root / split)
        if not self.source.path.is_dir():
            raise VkdError(f"{self.source.path}: no such folder of images (data.root)")
        tree = _read(self.file)
        self.categories = _categories(self.file, tree)
        self.images = _images(self.file, tree, num_images, seed)
        self.count = len(self.images)
        self.annotations: list[dict[str, Any]] = []
        self.left_out: list[int] = []
        self.objects = self._objects(tree)
        if self.left_out:
            shown = ", ".join(map(str, self.left_out[:5]))
            print(
                f"{self.file}: {len(self.left_out)} boxes without area in their image are left "
                f"out (annotations {shown}{', ...' if len(self.left_out) > 5 else ''})"
            )

    def _objects(self, tree: dict[str, Any]) -> list[Objects]:
        places = {image["id"]: i for i, image in enumerate(self.images)}
        known = {image.get("id") for image in tree["images"] if isinstance(image, dict)}
        found: list[list[tuple[list[float], int]]] = [[] for _ in self.images]
        for annotation in tree["annotations"]:
            number, box = _annotation(self.file, annotation)
            place = places.get(annotation["image_id"])
            if annotation["image_id"] not in known:
                raise VkdError(f"{self.file}: annotation {number}: no image has its image_id")
            if annotation["category_id"] not in self.categories:
                raise VkdError(
                    f"{self.file}: annotation {number}: category {annotation['category_id']} is "
                    "not among the categories"
                )
            if place is None:
                continue
            crowd = bool(annotation.get("iscrowd", 0))
            area = annotation.get("area", box[2] * box[3])
            entry = {"bbox": box, "area": area, "iscrowd": int(crowd)}
            self.annotations.append(annotation | entry)
            if crowd:
                continue
            corners = _corners(box, self.images[place])
            if corners is None:
                self.left_out.append(number)
            else:
                found[place].append((corners, annotation["category_id"]))
        return [
            Objects(
                torch.tensor([box for box, _ in items]).view(-1, 4),
                torch.tensor([label for _, label in items], dtype=torch.int64),
            )
            for items in found
        ]

    def name(self, index: int) -> str:
        return str(self.source.path / self.images[index]["file_name"])

    def image(self, index: int) -> Image.Image:
        """RGB.

        Raises:
            BadImage: missing, damaged, or of another size than its entry says.
        """
        entry = self.images[index]
        image = open_rgb(self.source.read(entry["file_name"]))
        if image.size != (entry["width"], entry["height"]):
            raise BadImage(
                f"{image.width}x{image.height} pixels, its entry in {self.file.name} says "
                f"{entry['width']}x{entry['height']}"
            )
        return image

    def truth(self) -> dict[str, Any]:
        """What the evaluation compares with, in COCO's format, crowds among it."""
        categories = [{"id": number, "name": name} for number, name in self.categories.items()]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


def load_training_images(settings: CocoSettings) -> Coco:
    return Coco(_root(settings), settings.train, settings.num_images, settings.seed)


def load_heldout_images(settings: CocoSettings, categories: dict[int, str]) -> Coco | None:
    """What is measured on; None where there is nothing.

    Raises:
        SettingsError: other categories than those.
    """
    if settings.heldout is None:
        return None
    number = settings.heldout_num_images
    heldout = Coco(_root(settings), settings.heldout, number, settings.seed)
    if heldout.categories != categories:
        odd = sorted({*heldout.categories.items()} ^ {*categories.items()})[:3]
        raise SettingsError(f"data.heldout = {settings.heldout}: has other categories ({odd})")
    return heldout


def _root(settings: CocoSettings) -> Path:
    return Path(settings.root).expanduser()


def _read(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text())
    except FileNotFoundError:
        raise VkdError(f"{file}: no such file (data.root, data.train, data.heldout)") from None
    except (OSError, ValueError, RecursionError) as error:
        raise VkdError(f"{file}: cannot be read as JSON ({str(error)[:200]})") from None
    keys = ("images", "annotations", "categories")
    for key in keys:
        if not isinstance(tree, dict) or not isinstance(tree.get(key), list):
            raise VkdError(f"{file}: not in COCO's format: has no list of {key}")
    return tree


def _categories(file: Path, tree: dict[str, Any]) -> dict[int, str]:
    try:
        categories = {entry["id"]: str(entry["name"]) for entry in tree["categories"]}
    except (KeyError, TypeError):
        raise VkdError(f"{file}: a category without an id or a name") from None
    if not categories or not all(type(number) is int and number >= 0 for number in categories):
        raise VkdError(f"{file}: categories need numbers from 0 on")
    return categories


def _images(
    file: Path, tree: dict[str, Any], num_images: int | None, seed: int
) -> list[dict[str, Any]]:
    try:
        images = [
            {key: entry[key] for key in ("id", "file_name", "width", "height")}
            for entry in tree["images"]
        ]
        images = sorted(images, key=lambda entry: entry["id"])
        whole = all(
            type(entry[key]) is int for entry in images for key in ("id", "width", "height")
        )
        inside = all(_is_inside(entry["file_name"]) for entry in images)
    except (KeyError, TypeError):
        whole = inside = False
    if not (whole and inside):
        raise VkdError(f"{file}: an image without a whole id, file_name, width and height")
    if len({entry["id"] for entry in images}) < len(images):
        raise VkdError(f"{file}: two images have the same id")
    if not images:
        raise VkdError(f"{file}: has no images")
    if num_images is None:
        return images
    if num_images > len(images):
        raise SettingsError(f"data.num_images = {num_images}: {file} has {len(images)} images")
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return [images[i] for i in sorted(drawn[:num_images].tolist())]


def _is_inside(name: Any) -> bool:
    return isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts


def _annotation(file: Path, annotation: Any) -> tuple[int, list[float]]:
    """Its number and its box, both as they should be."""
    number = annotation.get("id") if isinstance(annotation, dict) else None
    if type(number) is not int:
        raise VkdError(f"{file}: an annotation without a whole id")
    try:
        box = [float(x) for x in annotation["bbox"]]
        incomplete = len(box) != 4 or not all(map(math.isfinite, box))
        incomplete |= not {"image_id", "category_id"} <= annotation.keys()
    except (KeyError, TypeError, ValueError):
        incomplete = True
    if incomplete:
        raise VkdError(
            f"{file}: annotation {number}: needs image_id, category_id and bbox, four numbers"
        )
    return number, box


def _corners(box: list[float], image: dict[str, Any]) -> list[float] | None:
    """Left, top, right and bottom within the image; None where nothing is left."""
    x, y, w, h = box
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, image["width"]), min(y + h, image["height"])
    return [left, top, right, bottom] if left < right and top < bottom else None
