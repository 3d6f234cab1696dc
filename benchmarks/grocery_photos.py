"""Divides the grocery photographs into a training part and a held-out fifth of each class.

    python benchmarks/grocery_photos.py photos.zip OUT

Writes OUT/train/CLASS/*.jpg and OUT/heldout/CLASS/*.jpg. Photographs of a class whose thumbnails
(24 x 24 pixels, without their mean) correlate by more than 0.8 are of one scene, directly or
through others, and are never divided. Scenes are taken by the SHA-256 of their first name until a
fifth of the class is held out; a scene that would exceed it is passed over. Prints the counts.
"""

import io
import shutil
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

SHARE, ALIKE, SIDE = 0.2, 0.8, 24


def scenes(photos: list[bytes]) -> list[list[int]]:
    """Groups of photographs of one class: the components of "correlates by more than ALIKE"."""
    pictures = [Image.open(io.BytesIO(photo)).convert("RGB") for photo in photos]
    small = [picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR) for picture in pictures]
    rows = np.stack([np.asarray(picture, np.float64).ravel() for picture in small])
    rows -= rows.mean(1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    alike = rows @ rows.T > ALIKE
    group = np.arange(len(rows))
    for _ in rows:  # the smallest number of a component spreads to all of it
        group = np.where(alike, group[None], len(rows)).min(1)
    return [np.flatnonzero(group == first).tolist() for first in np.unique(group)]


def divide(file: Path, out: Path) -> str:
    """Writes both parts; returns a line of counts."""
    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    counts, groups = {"train": 0, "heldout": 0}, 0
    with zipfile.ZipFile(file) as photos:
        names = sorted(name for name in photos.namelist() if name.endswith(".jpg"))
        for label in sorted({name.split("/")[0] for name in names}):
            own = [name for name in names if name.startswith(f"{label}/")]
            contents = [photos.read(name) for name in own]
            found = scenes(contents)
            groups += len(found)
            wanted, held = round(SHARE * len(own)), set[int]()
            for scene in sorted(found, key=lambda scene: sha256(own[scene[0]].encode()).digest()):
                if len(held) + len(scene) <= wanted:
                    held.update(scene)
            for i, (name, content) in enumerate(zip(own, contents, strict=True)):
                part = "heldout" if i in held else "train"
                target = unfinished / part / label / Path(name).name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
                counts[part] += 1
    unfinished.rename(out)
    return (
        f"{counts['train']} photographs to train on, {counts['heldout']} held out, {groups} scenes"
    )


if __name__ == "__main__":
    print(divide(Path(sys.argv[1]), Path(sys.argv[2])))
