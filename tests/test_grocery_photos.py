"""The division of the grocery photographs: a fifth of each class, and no scene on both sides."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.grocery_photos import divide, scenes


def jpeg(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "jpeg")
    return out.getvalue()


def photographs() -> dict[str, list[bytes]]:
    """Two classes of 20: ten scenes of three and one photographs in turn, with noise."""
    rng = np.random.default_rng(0)
    found: dict[str, list[bytes]] = {}
    for label in ("Apple", "Leek"):
        found[label] = []
        for scene in range(10):
            base = np.kron(rng.uniform(0, 255, (6, 6, 3)), np.ones((8, 8, 1)))
            for _ in range(1 if scene % 2 else 3):
                found[label].append(jpeg(base + rng.normal(0, 8, base.shape)))
    return found


def test_photographs_of_a_scene_are_one_group() -> None:
    groups = scenes(photographs()["Apple"])
    assert sorted(map(len, groups)) == [1] * 5 + [3] * 5
    assert sorted(i for group in groups for i in group) == list(range(20))
    assert [0, 1, 2] in groups


def test_no_scene_is_divided_and_a_fifth_is_held_out(tmp_path: Path) -> None:
    photos = photographs()
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as out:
        for label, contents in photos.items():
            for i, content in enumerate(contents):
                out.writestr(f"{label}/{label}_{i:03d}.jpg", content)
    said = divide(tmp_path / "photos.zip", tmp_path / "out")
    assert said == "32 photographs to train on, 8 held out, 20 scenes"
    for label, contents in photos.items():
        parts = {
            part: {int(file.stem[-3:]) for file in (tmp_path / "out" / part / label).iterdir()}
            for part in ("train", "heldout")
        }
        assert sorted([*parts["train"], *parts["heldout"]]) == list(range(20))
        assert len(parts["heldout"]) == 4
        for scene in scenes(contents):
            assert parts["heldout"].issuperset(scene) or parts["heldout"].isdisjoint(scene)
