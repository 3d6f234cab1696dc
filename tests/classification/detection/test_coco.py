"""COCO's format: invalid annotations, batches and padding, boxes under augmentation."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from classification.detection.data.coco import Coco, Objects, load_training_images
from classification.detection.data.feed import Feed, collate
from classification.detection.data.views import CropWithin, training_view, whole_view, with_boxes
from classification.detection.settings import BoxAugmentSettings, CocoSettings
from gan_vkd.data.decoding import BadImage
from gan_vkd.runtime.errors import SettingsError, VkdError
from tests.classification.detection.conftest import MakeDetection, write_coco
from tests.real_data import SHARED, needs_shared


def test_annotations_are_parsed(made: Path) -> None:
    coco = Coco(made, "made")
    assert coco.count == 6
    assert coco.categories == {1: "red", 3: "blue"}
    assert [len(found.labels) for found in coco.objects] == [2, 1, 0, 3, 1, 1]
    assert coco.objects[0].boxes.tolist() == [[4, 6, 24, 36], [40, 10, 56, 26]]
    assert coco.objects[2].boxes.shape == (0, 4)
    assert all(found.boxes.dtype == torch.float32 for found in coco.objects)
    assert coco.image(1).size == (48, 64)


def test_crowds_are_used_in_the_evaluation_only(tmp_path: Path) -> None:
    coco = Coco(
        write_coco(tmp_path / "c", lambda tree: tree["annotations"][0].update(iscrowd=1)), "made"
    )
    assert len(coco.objects[0].labels) == 1
    assert [a["iscrowd"] for a in coco.truth()["annotations"]] == [1, *[0] * 7]


def test_boxes_without_area_are_reported_once_and_left_out_of_training(
    tmp_path: Path, capsys: Any
) -> None:
    def invalidate(tree: dict[str, Any]) -> None:
        tree["annotations"][0]["bbox"] = [5, 5, 0, 10]
        tree["annotations"][1]["bbox"] = [70, 5, 10, 10]  # outside the image
        tree["annotations"][2]["bbox"] = [-5, -5, 20, 20]

    coco = Coco(write_coco(tmp_path / "c", invalidate), "made")
    assert "2 boxes have no area inside their image and are not trained on (annotations 1, 2)" in (
        capsys.readouterr().out
    )
    assert coco.objects[1].boxes.tolist() == [[0, 0, 15, 15]]
    assert len(coco.objects[0].labels) == 0


INVALID = {
    "annotation 3: category 2 is not among": lambda t: t["annotations"][2].update(category_id=2),
    "annotation 3: no image has its": lambda t: t["annotations"][2].update(image_id=99),
    "annotation 3: needs image_id": lambda t: t["annotations"][2].update(bbox=[1, 2, 3]),
    "annotation 1: needs": lambda t: t["annotations"][0].update(bbox=[1, 2, 10**400, 3]),
    "annotation 2: iscrowd": lambda t: t["annotations"][1].update(area=10**400),
    "annotation 3: needs": lambda t: t["annotations"][2].update(bbox=[1, 2, 3, float("nan")]),
    "annotation 3: needs image_id, category": lambda t: t["annotations"][2].update(image_id=[1]),
    "annotation 3: needs image_id,": lambda t: t["annotations"][2].update(category_id=True),
    "annotation 3: iscrowd must": lambda t: t["annotations"][2].update(iscrowd="0"),
    "annotation 3: .*area a number": lambda t: t["annotations"][2].update(area=None),
    "needs an integer id": lambda t: t["annotations"][2].pop("id"),
    "'file_name': '003.png'.*needs id, file_name": lambda t: t["images"][2].pop("width"),
    "'003.png': id, width": lambda t: t["images"][2].update(id=2**60),
    "image 3: file_name .* is not a": lambda t: t["images"][2].update(file_name="a\nb.png"),
    "1 of 6 images are missing .other.png": lambda t: t["images"][2].update(file_name="other.png"),
    "two images have the same id": lambda t: t["images"][2].update(id=1),
    "has no images": lambda t: t.update(images=[]),
    "no list `annotations`": lambda t: t.pop("annotations"),
    "a category without": lambda t: t["categories"][0].pop("name"),
    "category -1: expected": lambda t: t["categories"][0].update(id=-1),
    "category 1000000000: expected": lambda t: t["categories"][0].update(id=10**9),
    "two with the same id": lambda t: t["categories"][0].update(id=3),
    "image 3: .*leaves the folder": lambda t: t["images"][2].update(file_name="../../etc/passwd"),
}


@pytest.mark.parametrize("message", INVALID)
def test_invalid_annotations_are_a_one_line_error(message: str, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "c", INVALID[message])
    with pytest.raises(VkdError, match=message) as caught:
        Coco(root, "made")
    assert len(str(caught.value).splitlines()) == 1
    assert str(root) in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_invalid_json_is_a_one_line_error(text: str, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "c")
    (root / "annotations" / "instances_made.json").write_text(text)
    with pytest.raises(VkdError, match=r"JSON|COCO's format"):
        Coco(root, "made")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(VkdError, match="no such folder of images"):
        Coco(tmp_path, "made")
    root = write_coco(tmp_path / "c")
    (root / "annotations" / "instances_made.json").unlink()
    with pytest.raises(VkdError, match=r"instances_made.json: no such file"):
        Coco(root, "made")
    with pytest.raises(SettingsError, match=r"a subset of 9 \(data.num_images"):
        Coco(write_coco(tmp_path / "d"), "made", num_images=9)


def test_larger_images_than_the_limit_are_bad_images(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "c")
    Image.new("L", (1001, 1000)).save(root / "made" / "001.png")
    settings = CocoSettings(root=str(root), train="made", heldout=None, max_megapixels=1)
    with pytest.raises(BadImage, match=r"1001x1000 pixels, more than data\.max_megapixels = 1"):
        load_training_images(settings).image(0)


def test_images_in_hidden_folders_are_read_where_they_are_listed(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "c", lambda t: t["images"][0].update(file_name=".x/001.png"))
    (root / "made" / ".x").mkdir()
    (root / "made" / "001.png").rename(root / "made" / ".x" / "001.png")
    for name in ("settings.yaml", ".lock"):
        (root / "made" / name).touch()
    assert [Coco(root, "made").image(i).size for i in range(2)] == [(64, 48), (48, 64)]


def test_a_missing_image_or_one_of_another_size_is_a_bad_image(tmp_path: Path) -> None:
    coco = Coco(write_coco(tmp_path / "c"), "made")
    Image.new("RGB", (10, 10)).save(tmp_path / "c" / "made" / "001.png")
    (tmp_path / "c" / "made" / "002.png").unlink()
    with pytest.raises(BadImage, match=r"10x10 pixels .*, but its entry in .* has 64x48"):
        coco.image(0)
    with pytest.raises(BadImage, match="No such file"):
        coco.image(1)


@pytest.mark.parametrize("damaged", ["refuse", "skip"])
def test_a_damaged_image_is_refused_by_name_or_skipped(
    damaged: str, tmp_path: Path, tiny_detection: MakeDetection, capsys: Any
) -> None:
    root = write_coco(tmp_path / "c")
    (root / "made" / "002.png").write_bytes(b"no picture")
    settings = tiny_detection(
        f"data.root={root}", f"data.damaged={damaged}", "train.batch_size=6", arm="plain"
    )
    feed = Feed(settings, Coco(root, "made"), "cpu")
    if damaged == "refuse":
        with pytest.raises(VkdError, match=r"002\.png \(not an image\).*--resume"):
            feed(0)
        return
    batch = feed(0)
    assert sorted(batch.indices) == [0, 2, 2, 3, 4, 5]  # the next image replaces it
    assert len(batch.images) == len(batch.targets.counts) == 6
    feed(1)
    assert capsys.readouterr().err.count("002.png") == 1


def test_batches_are_padded_on_the_right_and_at_the_bottom(tiny_detection: MakeDetection) -> None:
    settings = tiny_detection("train.batch_size=6", "augment.crop_scales=[]", arm="plain")
    feed = Feed(settings, Coco(Path(settings.data.root), "made"), "cpu")
    batch = feed(0)
    assert batch.padding.shape == batch.images[:, 0].shape
    for image, padding in zip(batch.images, batch.padding, strict=True):
        assert not image[:, padding].any()
        rows, columns = (~padding).any(1).sum(), (~padding).any(0).sum()
        assert not padding[:rows, :columns].any()
    assert batch.targets.counts == [len(feed.images.objects[i].labels) for i in batch.indices]
    assert len(collate([])[0]) == 0


def test_parts_of_a_batch_are_padded_to_their_own_largest_image(
    tiny_detection: MakeDetection,
) -> None:
    settings = tiny_detection("train.batch_size=6", "augment.crop_scales=[]", arm="plain")
    batch = Feed(settings, Coco(Path(settings.data.root), "made"), "cpu")(0)
    parts = batch.chunk(3)
    assert [i for part in parts for i in part.indices] == batch.indices
    assert [n for part in parts for n in part.targets.counts] == batch.targets.counts
    assert torch.equal(torch.cat([part.targets.boxes for part in parts]), batch.targets.boxes)
    for number, part in enumerate(parts):
        assert not part.padding.all(0)[-1].all()
        assert not part.padding.all(0)[:, -1].all()
        for image, padding, size in zip(part.images, part.padding, part.sizes, strict=True):
            assert tuple((~padding).any(k).sum() for k in (1, 0)) == size
            whole = batch.images[2 * number : 2 * number + 2, :, : size[0], : size[1]]
            assert any(torch.equal(image[:, : size[0], : size[1]], x) for x in whole)


def test_batches_depend_on_their_number_only(tiny_detection: MakeDetection) -> None:
    settings = tiny_detection(arm="plain")
    coco = Coco(Path(settings.data.root), "made")
    in_a_row = Feed(settings, coco, "cpu")
    wanted = [in_a_row(i) for i in range(5)][4]
    found = Feed(settings, coco, "cpu")(4)
    assert torch.equal(wanted.images, found.images)
    assert torch.equal(wanted.targets.boxes, found.targets.boxes)


def painted(boxes: list[tuple[int, int, int, int]], size: tuple[int, int] = (120, 90)):
    """Returns an image with one colour channel per box, and its objects; boxes: corners."""
    image = Image.new("RGB", size, "black")
    for i, box in enumerate(boxes):
        image.paste(tuple(255 * (i == j) for j in range(3)), box)
    return image, Objects(torch.tensor(boxes).float(), torch.arange(len(boxes)))


def test_augmentation_moves_boxes_with_their_pixels() -> None:
    image, objects = painted([(10, 20, 50, 60), (70, 5, 100, 80)])
    data = CocoSettings(root="", mean=(0, 0, 0), std=(1, 1, 1))
    augment = BoxAugmentSettings(
        scales=[60, 90, 130], longest=200, flip=0.5, crop_scales=[80, 100], crop_sizes=(50, 90)
    )
    view = training_view(data, augment)
    torch.manual_seed(0)
    flips = cut = 0
    for _ in range(40):
        pixels, labels, boxes = with_boxes(view, image, objects)
        _, h, w = pixels.shape
        assert max(h, w) <= 200
        assert ((boxes >= 0) & (boxes <= 1)).all()
        for label, (x, y, bw, bh) in zip(labels.tolist(), boxes.tolist(), strict=True):
            shade = pixels[label] > 0.5
            rows, columns = shade.any(1).nonzero(), shade.any(0).nonzero()
            found = [
                float(columns.min()), float(rows.min()), float(columns.max()) + 1,
                float(rows.max()) + 1,
            ]  # fmt: skip
            corners = [(x - bw / 2) * w, (y - bh / 2) * h, (x + bw / 2) * w, (y + bh / 2) * h]
            assert found == pytest.approx(corners, abs=2.5)
        centres = {int(label): float(box[0]) for label, box in zip(labels, boxes, strict=True)}
        flips += len(centres) == 2 and centres[0] > centres[1]
        cut += len(centres) < 2
    assert 8 < flips < 32
    assert cut > 2


def test_crop_sides_are_within_their_bounds() -> None:
    torch.manual_seed(0)
    crop = CropWithin(30, 50)
    sides = {v2.functional.get_size(crop(Image.new("RGB", (40, 100))))[i] for i in (0, 1)
             for _ in range(50)}  # fmt: skip
    assert min(sides) >= 30
    assert max(sides) <= 50
    assert crop(Image.new("RGB", (20, 20))).size == (20, 20)


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((640, 480), (800, 1056)),  # 1066
        ((427, 640), (1184, 800)),  # 1199
        ((300, 1200), (1328, 320)),  # 1332 by 333
        ((800, 800), (800, 800)),
        ((3, 100), (1328, 32)),
    ],
)
def test_evaluation_resizes_within_the_longest_side_to_multiples_of_16(
    size: tuple[int, int], seen: tuple[int, int]
) -> None:
    image = Image.new("RGB", size)
    pixels, _ = whole_view(800, 1333, (0, 0, 0), (1, 1, 1))(image, {})
    assert pixels.shape[1:] == torch.Size(seen)


@needs_shared
def test_the_real_annotations_are_read() -> None:
    root = SHARED / "data" / "coco-mini"
    train, heldout = Coco(root, "train2017"), Coco(root, "val2017")
    tree = json.loads(train.file.read_text())
    assert (train.count, heldout.count, len(train.categories)) == (96, 32, 80)
    plain = [a for a in tree["annotations"] if not a["iscrowd"]]
    assert sum(len(found.labels) for found in train.objects) == len(plain) - len(train.left_out)
    assert sum(len(found.labels) == 0 for found in train.objects) == 2
    assert all(train.image(i).size[0] > 0 for i in range(0, 96, 7))
