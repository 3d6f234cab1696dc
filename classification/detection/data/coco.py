"""Images with boxes in COCO's format, read and validated once."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from classification.detection.settings import CocoSettings
from gan_vkd.data.decoding import MAX_MEGAPIXELS, BadImage, open_rgb
from gan_vkd.data.images import FolderSource
from gan_vkd.runtime.checkpoint import digest
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.files import read_text, user_path

MAX_CATEGORIES = 10_000  # a detector has a class for each number up to the largest
MAX_BYTES = 2**32  # of a file of annotations; instances_train2017.json has 0.45 * 10^9
MAX_EXACT = 2**53  # largest integers exact in float64, which pycocotools uses


class Objects(NamedTuple):
    """The objects in one image, without crowds.

    boxes: (n, 4), corners in pixels. labels: (n,), category numbers.
    """

    boxes: Tensor
    labels: Tensor


class Coco:
    """The images of a split and their objects.

    Crowds, and boxes without area inside their image (reported once), are used in evaluation only,
    which treats them as COCO does.

    Args:
        root: a folder laid out as COCO.
        split: name of the split, such as train2017.
        num_images: size of a random subset, or None for all images.
        seed: of the subset.
        incomplete: whether files may be missing.
        max_megapixels: larger images cannot be used.

    Raises:
        SettingsError: a subset larger than the set.
        VkdError: a missing file or folder, invalid JSON, or an entry that is incomplete or refers
            to an unknown image or category.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        num_images: int | None = None,
        seed: int = 0,
        incomplete: bool = False,
        max_megapixels: int = MAX_MEGAPIXELS,
    ) -> None:
        self.incomplete, self.max_megapixels = incomplete, max_megapixels
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
        self._require_files()
        if self.left_out:
            shown = ", ".join(map(str, self.left_out[:5]))
            print(
                f"{self.file}: {len(self.left_out)} boxes have no area inside their image and are "
                f"not trained on (annotations {shown}{', ...' if len(self.left_out) > 5 else ''})"
            )

    def _objects(self, tree: dict[str, Any]) -> list[Objects]:
        places = {image["id"]: i for i, image in enumerate(self.images)}
        known = {image["id"] for image in tree["images"]}
        found: list[list[tuple[list[float], int]]] = [[] for _ in self.images]
        for annotation in tree["annotations"]:
            entry = _annotation(self.file, annotation)
            image, category = entry["image_id"], entry["category_id"]
            if image not in known:
                raise VkdError(f"{self.file}: annotation {entry['id']}: no image has its image_id")
            if category not in self.categories:
                raise VkdError(
                    f"{self.file}: annotation {entry['id']}: category {category} is not among the "
                    "categories"
                )
            if image not in places:
                continue
            # New ids, since pycocotools takes id 0 for no annotation, and ids may occur twice
            self.annotations.append(entry | {"id": len(self.annotations) + 1})
            if entry["iscrowd"]:
                continue
            corners = _corners(entry["bbox"], self.images[places[image]])
            if corners is None:
                self.left_out.append(entry["id"])
            else:
                found[places[image]].append((corners, category))
        return [
            Objects(
                torch.tensor([box for box, _ in items], dtype=torch.float32).view(-1, 4),
                torch.tensor([label for _, label in items], dtype=torch.int64),
            )
            for items in found
        ]

    def _require_files(self) -> None:
        """Checks for missing files before training, not only when they are read."""
        there = set(self.source.names())
        missing = [x["file_name"] for x in self.images if x["file_name"] not in there]
        if missing and not self.incomplete:
            raise VkdError(
                f"{self.source.path}: {len(missing)} of {self.count} images are missing "
                f"({', '.join(missing[:5])}); add them, or set data.damaged=skip"
            )

    def name(self, index: int) -> str:
        return str(self.source.path / self.images[index]["file_name"])

    def image(self, index: int) -> Image.Image:
        """RGB.

        Raises:
            BadImage: missing, damaged, or of another size than its entry says.
        """
        entry = self.images[index]
        image = open_rgb(self.source.read(entry["file_name"]), self.max_megapixels)
        if image.size != (entry["width"], entry["height"]):
            raise BadImage(
                f"{image.width}x{image.height} pixels with its EXIF orientation applied, but its "
                f"entry in {self.file.name} has {entry['width']}x{entry['height']}"
            )
        return image

    def fingerprint(self) -> str:
        """Equal for equal entries, independent of their location."""
        return digest(json.dumps(self.truth()), {})

    def truth(self) -> dict[str, Any]:
        """The ground truth of an evaluation in COCO's format, including crowds."""
        categories = [{"id": number, "name": name} for number, name in self.categories.items()]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


def load_training_images(settings: CocoSettings) -> Coco:
    return _load(settings, settings.train, settings.num_images)


def load_heldout_images(settings: CocoSettings, categories: dict[int, str] | None) -> Coco | None:
    """Loads the held-out images; None where the settings have none.

    Args:
        settings: of the data.
        categories: the training set's, which must be the same; None: not compared.

    Raises:
        SettingsError: its categories are not the given ones.
    """
    if settings.heldout is None:
        return None
    heldout = _load(settings, settings.heldout, settings.heldout_num_images)
    if categories is not None and heldout.categories != categories:
        odd = sorted({*heldout.categories.items()} ^ {*categories.items()})[:3]
        raise SettingsError(f"data.heldout = {settings.heldout}: has other categories ({odd})")
    return heldout


def _load(settings: CocoSettings, split: str, num_images: int | None) -> Coco:
    root, incomplete = user_path(settings.root), settings.damaged == "skip"
    return Coco(root, split, num_images, settings.seed, incomplete, settings.max_megapixels)


def _read(file: Path) -> dict[str, Any]:
    if not os.path.lexists(file):
        raise VkdError(f"{file}: no such file (data.root, data.train, data.heldout)")
    try:
        tree = json.loads(read_text(file, MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise VkdError(f"{file}: cannot be read as JSON ({str(error)[:200]})") from None
    keys = ("images", "annotations", "categories")
    for key in keys:
        if not isinstance(tree, dict) or not isinstance(tree.get(key), list):
            raise VkdError(f"{file}: not in COCO's format: has no list `{key}`")
    return tree


def _categories(file: Path, tree: dict[str, Any]) -> dict[int, str]:
    try:
        categories = {entry["id"]: str(entry["name"]) for entry in tree["categories"]}
    except (KeyError, TypeError):
        raise VkdError(f"{file}: a category without an id or a name") from None
    for number in categories:
        if type(number) is not int or not 0 <= number < MAX_CATEGORIES:
            raise VkdError(
                f"{file}: category {number!r}: expected a number from 0 to {MAX_CATEGORIES - 1}"
            )
    if len(categories) < len(tree["categories"]) or not categories:
        raise VkdError(f"{file}: has no categories, or two with the same id")
    return categories


def _images(
    file: Path, tree: dict[str, Any], num_images: int | None, seed: int
) -> list[dict[str, Any]]:
    images = sorted((_image(file, entry) for entry in tree["images"]), key=lambda x: x["id"])
    if len({entry["id"] for entry in images}) < len(images):
        raise VkdError(f"{file}: two images have the same id")
    if not images:
        raise VkdError(f"{file}: has no images")
    if num_images is None:
        return images
    if num_images > len(images):
        raise SettingsError(
            f"a subset of {num_images} (data.num_images, data.heldout_num_images): {file} has "
            f"{len(images)} images"
        )
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return [images[i] for i in sorted(drawn[:num_images].tolist())]


def _image(file: Path, entry: Any) -> dict[str, Any]:
    try:
        image = {key: entry[key] for key in ("id", "file_name", "width", "height")}
    except (KeyError, TypeError):
        raise VkdError(
            f"{file}: image {str(entry)[:80]}: needs id, file_name, width and height"
        ) from None
    numbers = [image[key] for key in ("id", "width", "height")]
    name = image["file_name"]
    if not all(type(x) is int and 0 <= x < MAX_EXACT for x in numbers):
        raise VkdError(f"{file}: image {name!r}: id, width and height must be whole numbers")
    if not isinstance(name, str) or not name.isprintable():
        raise VkdError(f"{file}: image {image['id']}: file_name {name!r} is not a file name")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise VkdError(f"{file}: image {image['id']}: file_name {name!r} leaves the folder")
    return image


def _annotation(file: Path, annotation: Any) -> dict[str, Any]:
    """Validates an annotation and returns the keys that are used."""
    number = annotation.get("id") if isinstance(annotation, dict) else None
    if type(number) is not int:
        raise VkdError(f"{file}: annotation {str(annotation)[:80]}: needs an integer id")
    box = annotation.get("bbox")
    places = [annotation.get(key) for key in ("image_id", "category_id")]
    complete = isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))
    if not complete or not all(type(place) is int for place in places):
        raise VkdError(
            f"{file}: annotation {number}: needs image_id, category_id and bbox, four numbers"
        )
    crowd, area = annotation.get("iscrowd", 0), annotation.get("area", box[2] * box[3])
    if crowd not in (0, 1) or not _is_finite(area):
        raise VkdError(f"{file}: annotation {number}: iscrowd must be 0 or 1, area a number")
    return {
        "id": number, "image_id": places[0], "category_id": places[1], "bbox": box, "area": area,
        "iscrowd": int(crowd),
    }  # fmt: skip


def _is_finite(x: Any) -> bool:
    return type(x) in (int, float) and abs(x) < MAX_EXACT  # an int may exceed float


def _corners(box: list[float], image: dict[str, Any]) -> list[float] | None:
    """Left, top, right and bottom, clipped to the image; None where no area remains."""
    x, y, w, h = box
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + w, image["width"]), min(y + h, image["height"])
    return [left, top, right, bottom] if left < right and top < bottom else None
