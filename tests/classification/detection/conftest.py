"""A synthetic COCO of coloured rectangles on grey, small settings, an untrained teacher."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from classification.detection.network.vidt import ViDT
from classification.detection.run import Run
from classification.detection.settings import DetectionSettings, facts_of, load_settings

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
MakeDetection = Callable[..., DetectionSettings]
CATEGORIES = [{"id": 1, "name": "red"}, {"id": 3, "name": "blue"}]
# (width, height) and (left, top, width, height, category) of each image
PICTURES: list[tuple[tuple[int, int], list[tuple[float, float, float, float, int]]]] = [
    ((64, 48), [(4, 6, 20, 30, 1), (40, 10, 16, 16, 3)]),
    ((48, 64), [(10, 20, 30, 30, 3)]),
    ((64, 64), []),
    ((64, 64), [(0, 0, 64, 32, 1), (20, 40, 8, 8, 3), (50, 50, 10, 12, 1)]),
    ((56, 40), [(8, 8, 40, 24, 1)]),
    ((64, 48), [(30, 4, 30, 40, 3)]),
]


def write_coco(root: Path, change: Callable[[dict[str, Any]], Any] = lambda tree: None) -> Path:
    """Writes a folder in COCO's layout with one split, `made`; change(tree) edits annotations."""
    tree: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [dict(c) for c in CATEGORIES],
    }
    (root / "made").mkdir(parents=True)
    (root / "annotations").mkdir()
    for number, (size, boxes) in enumerate(PICTURES, start=1):
        name = f"{number:03d}.png"
        picture = Image.new("RGB", size, "grey")
        pen = ImageDraw.Draw(picture)
        tree["images"].append(
            {"id": number, "file_name": name, "width": size[0], "height": size[1]}
        )
        for x, y, w, h, category in boxes:
            pen.rectangle((x, y, x + w - 1, y + h - 1), fill="red" if category == 1 else "blue")
            tree["annotations"].append(
                {
                    "id": len(tree["annotations"]) + 1,
                    "image_id": number,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        picture.save(root / "made" / name)
    change(tree)
    (root / "annotations" / "instances_made.json").write_text(json.dumps(tree))
    return root


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("coco") / "root")


@pytest.fixture
def tiny_detection(made: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeDetection:
    """tiny_detection("key=value", ..., arm="vkd"): settings of a run that takes seconds."""

    def make(*overrides: str, arm: str = "vkd") -> DetectionSettings:
        name = "coco_vidt_nano" + ("" if arm == "plain" else f"+objectives/vidt_{arm}")
        settings = [
            f"data.root={made}", "data.train=made", "data.heldout=made", "data.workers=0",
            "student={size: nano, queries: 6, width: 32, layers: 2, hidden: 32, dropout: 0.1}",
            "augment={scales: [48, 64], longest: 64, crop_scales: [64], crop_sizes: [32, 48]}",
            "train.epochs=2", "train.batch_size=2", "train.log_every=1", "train.checkpoint_every=2",
            "evaluate={batch_size: 4, scale: 64, longest: 64}", "device=cpu",
        ]  # fmt: skip
        if arm != "plain":
            run = Run(tmp_path_factory.mktemp("teacher"))
            teacher = {"size": "nano", "queries": 6, "width": 32, "layers": 2, "hidden": 32}
            settings.append(f"teacher={json.dumps(teacher | {'weights': str(run.path)})}")
            made_of = load_settings(CONFIGS / "coco_vidt_nano.yaml",
                                    [f"student={json.dumps(teacher)}"])  # fmt: skip
            torch.manual_seed(7)
            detector = ViDT("nano", 4, queries=6, width=32, layers=2, hidden=32)
            run.export(detector, facts_of(made_of, {1: "red", 3: "blue"}))
        return load_settings(CONFIGS / name, [*settings, *overrides])

    return make
