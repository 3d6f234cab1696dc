"""Detection in images: boxes drawn on them, and written in COCO's results format."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from classification.detection.data.views import require_aspect_ratio, whole_view
from classification.detection.evaluation import top_detections
from classification.detection.network.vidt import ViDT
from classification.detection.run import read_detector
from gan_vkd.data.decoding import BadImage, open_rgb
from gan_vkd.data.listing import is_image
from gan_vkd.runtime.devices import pick_device
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import user_path, write_atomically, write_text

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")


def predict(
    run: Path, sources: list[Path], out: Path, threshold: float = 0.5, device: str = "auto"
) -> list[Path]:
    """Detects objects in images, draws them and writes detections.json.

    Args:
        run: a run folder or a file of weights.
        sources: images, and folders of images.
        out: folder for the pictures, as PNG under the images' names, and detections.json: a list of
            image_id, file_name, category_id, bbox (left, top, width, height in pixels) and score.
            image_id is the file's name where all names are different numbers, as in COCO, otherwise
            the image's position, counted from 1.
        threshold: least score of the boxes drawn; detections.json has all boxes.
        device: where the detector runs.

    Returns:
        The files written.

    Raises:
        VkdError: no detector; or images that are missing or cannot be used, after all others are
            done.
    """
    device = pick_device(device)
    detector, facts = read_detector(run, device)
    view = whole_view(facts["scale"], facts["longest"], facts["mean"], facts["std"])
    files = list(_files(sources))
    stems = [file.stem for file in files]
    numbered = all(stem.isdecimal() for stem in stems) and len({*map(int, stems)}) == len(stems)
    written, results = [], list[dict[str, Any]]()
    faults: list[str] = []
    for place, file in enumerate(files, start=1):
        try:
            image = require_aspect_ratio(open_rgb(file.read_bytes()))
        except (BadImage, OSError) as error:
            faults.append(f"{file}: {getattr(error, 'strerror', None) or error}")
            continue
        corners, scores, labels = detect(detector, view, image, device)
        results += [
            {
                "image_id": int(file.stem) if numbered else place,
                "file_name": file.name,
                "category_id": int(label),
                "bbox": [round(x, 2) for x in (left, top, right - left, bottom - top)],
                "score": round(score, 5),
            }
            for (left, top, right, bottom), score, label in zip(
                corners.tolist(), scores.tolist(), labels.tolist(), strict=True
            )
        ]
        shown = scores >= threshold
        categories = [facts["categories"].get(str(x), str(x)) for x in labels[shown].tolist()]
        picture = draw(image, corners[shown], categories, scores[shown].tolist())
        name = file.stem
        while out / f"{name}.png" in written:
            name += f"_{place}"
        written.append(out / f"{name}.png")
        write_atomically(written[-1], partial(picture.save, format="PNG"))
    table = out / "detections.json"
    write_text(table, json.dumps(results))
    if faults:
        raise VkdError("\n".join([*faults, f"{table}: has the detections of all other images"]))
    return [*written, table]


@torch.no_grad()
def detect(
    detector: ViDT, view: Any, image: Image.Image, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Corners (n, 4) in pixels of the image, scores and categories (n,), highest score first."""
    pixels = view(image)[None].to(device)
    padding = torch.zeros(1, *pixels.shape[2:], dtype=torch.bool, device=device)
    size = torch.tensor([[image.width, image.height]], device=device)
    corners, scores, labels = (x[0].cpu() for x in top_detections(detector(pixels, padding), size))
    limits = torch.tensor([image.width, image.height] * 2)
    return corners.clamp_min(0).minimum(limits), scores, labels


def draw(
    image: Image.Image, corners: Tensor, categories: list[str], scores: list[float]
) -> Image.Image:
    """Returns a copy of the image with a box, name and score for each object."""
    picture = image.copy()
    pen = ImageDraw.Draw(picture)
    line = max(1, round(min(image.size) / 200))
    font = ImageFont.load_default(size=max(10, min(image.size) / 25))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(categories))}
    for box, name, score in zip(corners.tolist(), categories, scores, strict=True):
        pen.rectangle(box, outline=colours[name], width=line)
        text, place = f"{name} {score:.2f}", (box[0] + line, max(0.0, box[1]))
        pen.rectangle(pen.textbbox(place, text, font=font), fill=colours[name])
        pen.text(place, text, fill="white", font=font)
    return picture


def _files(sources: list[Path]) -> Iterator[Path]:
    for source in map(user_path, sources):
        if not source.is_dir():
            yield source
            continue
        images = sorted(file for file in source.iterdir() if is_image(file.name))
        if not images:
            raise VkdError(f"{source}: no images in it")
        yield from images
