"""Measures the images per second of data loading: python benchmarks/input_path.py [--images 512]

DeiT's augmentation at 224 on JPEG files of ImageNet's typical size, crops 500 pixels wide of
scikit-learn's two photographs: this project's feed from a folder and from tar shards, timm's loader
on the same folder with the same transform, and decoding alone. All files are in the page cache and
nothing is trained; as many workers as processor cores are used. Then crops and flips of small
images in memory, batched on the device and one by one through PIL.
"""

import argparse
import io
import json
import os
import tarfile
import tempfile
import time
from pathlib import Path

import timm.data
from PIL import Image
from sklearn.datasets import load_sample_images
from timing import machine

from classification.recognition.data.feed import Feed
from classification.recognition.data.images import load_training_images
from classification.recognition.data.transforms import training_transform
from classification.recognition.settings import ClassifierSettings, load_settings
from gan_vkd.data.decoding import open_rgb

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BATCH, CLASSES, ROUNDS = 32, 8, 3


def write_images(root: Path, count: int) -> None:
    """Writes the same files as one folder per class and as tar shards."""
    photographs = [Image.fromarray(x) for x in load_sample_images().images]
    for label in range(CLASSES):
        (root / "folder" / f"n{label:08d}").mkdir(parents=True)
        with tarfile.open(root / f"train-{label:06d}.tar", "w") as tar:
            for i in range(label, count, CLASSES):
                picture = photographs[i // CLASSES % 2].crop(
                    (i % 140, i % 50, i % 140 + 500, i % 50 + 375)
                )
                file = root / "folder" / f"n{label:08d}" / f"{i:06d}.jpg"
                picture.save(file, quality=96)
                for suffix, data in (("jpg", file.read_bytes()), ("cls", str(label).encode())):
                    info = tarfile.TarInfo(f"{i:06d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def settings_of(source: Path, kind: str, count: int, workers: int) -> ClassifierSettings:
    data = {"source": str(source), "kind": kind, "heldout": None, "workers": workers}
    if kind == "shards":
        data |= {"num_images": count, "classes": CLASSES}
    changes = [f"data={json.dumps(data)}", f"train.batch_size={BATCH}", "augment.repeats=1"]
    return load_settings(CONFIGS / "imagenet_deit_ti.yaml", changes)


def seconds_of_feed(source: Path, kind: str, count: int, workers: int) -> float:
    """Returns the seconds per batch of one pass, after the first batch."""
    settings = settings_of(source, kind, count, workers)
    feed = Feed(settings, load_training_images(settings.data), "cpu")
    feed(0)
    start = time.perf_counter()
    for number in range(1, count // BATCH):
        feed(number)
    return (time.perf_counter() - start) / (count // BATCH - 1)


def seconds_of_timm(root: Path, count: int, workers: int) -> float:
    settings = settings_of(root / "folder", "files", count, workers)
    loader = timm.data.create_loader(
        timm.data.create_dataset("folder", str(root / "folder")),
        (3, 224, 224), BATCH, is_training=True, use_prefetcher=False, num_workers=workers,
        persistent_workers=False,
    )  # fmt: skip
    loader.dataset.transform = training_transform(settings.data, settings.augment)
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    rest = sum(1 for _ in batches)
    return (time.perf_counter() - start) / rest


def seconds_of_decoding(root: Path) -> float:
    files = [file.read_bytes() for file in sorted(root.glob("folder/*/*.jpg"))[: 4 * BATCH]]
    start = time.perf_counter()
    for data in files:
        open_rgb(data)
    return (time.perf_counter() - start) / 4


def seconds_of_memory(resident: bool) -> float:
    """Returns the seconds per batch of 50 of scikit-learn's digits, cropped and flipped."""
    changes = ["data.source=digits", "data.fraction=null", "train.batch_size=50"]
    settings = load_settings(CONFIGS / "cifar10_vit.yaml", changes)
    feed = Feed(settings, load_training_images(settings.data), "cpu")
    if not resident:
        feed.resident = None
    feed(0)
    start = time.perf_counter()
    for number in range(1, 31):
        feed(number)
    return (time.perf_counter() - start) / 30


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=512)
    count = parser.parse_args().images
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root, count)
        size = sum(file.stat().st_size for file in root.glob("folder/*/*.jpg")) / count
        ways = {
            "decoding alone, one core": lambda: seconds_of_decoding(root),
            f"timm's loader, {workers} workers": lambda: seconds_of_timm(root, count, workers),
            "folder, no workers": lambda: seconds_of_feed(root / "folder", "files", count, 0),
            f"folder, {workers} workers": lambda: seconds_of_feed(
                root / "folder", "files", count, workers
            ),
            f"shards, {workers} workers": lambda: seconds_of_feed(
                root / f"train-{{000000..{CLASSES - 1:06d}}}.tar", "shards", count, workers
            ),
        }
        seconds = {name: min(way() for _ in range(ROUNDS)) for name, way in ways.items()}
    reference = seconds[f"timm's loader, {workers} workers"]
    print(f"{count} JPEG files of 500 x 375, {size / 1024:.0f} KiB each, best of {ROUNDS} passes")
    print(f"{machine()}\n")
    print("| input | images / s | relative to timm's |")
    print("|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {BATCH / value:.0f} | {reference / value:.2f} |")
    memory = {
        name: min(seconds_of_memory(resident) for _ in range(ROUNDS))
        for name, resident in (("one by one, PIL", False), ("a batch at once", True))
    }
    reference = memory["one by one, PIL"]
    print("\n| 32 x 32 in memory, no workers | images / s | relative to PIL |")
    print("|---|---|---|")
    for name, value in memory.items():
        print(f"| {name} | {50 / value:.0f} | {reference / value:.1f} |")


if __name__ == "__main__":
    main()
