"""Average precision of the ground truth, of shifted boxes, with crowds and damaged images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from classification.detection.data.coco import Coco
from classification.detection.evaluation import average_precision, measure, top_detections
from classification.detection.network.vidt import Outputs, Tokens
from classification.detection.run import read_detector
from classification.detection.training import train
from gan_vkd.runtime.errors import VkdError
from tests.classification.detection.conftest import MakeDetection, write_coco
from tests.real_data import SHARED, needs_shared


def as_detections(truth: dict[str, Any], shift: float = 0.0) -> np.ndarray:
    return np.array(
        [
            [a["image_id"], a["bbox"][0] + shift, *a["bbox"][1:], 0.5 + a["id"] % 7 / 20,
             a["category_id"]]
            for a in truth["annotations"]
            if not a["iscrowd"]
        ],
        dtype=float,
    )  # fmt: skip


def test_the_ground_truth_has_an_average_precision_of_100(made: Path) -> None:
    truth = Coco(made, "made").truth()
    result = average_precision(truth, as_detections(truth))
    assert result["AP"] == result["AP50"] == result["AP75"] == pytest.approx(100)
    assert "AP_L" not in result  # there is no object of that size


@pytest.mark.parametrize("first", [0, 5])
def test_annotation_ids_may_start_at_0_or_be_equal(first: int, tmp_path: Path) -> None:
    def renumber(tree: dict[str, Any]) -> None:
        for place, annotation in enumerate(tree["annotations"]):
            annotation["id"] = place if first == 0 else first

    truth = Coco(write_coco(tmp_path / "c", renumber), "made").truth()
    assert average_precision(truth, as_detections(truth))["AP"] == pytest.approx(100)


def test_detections_in_a_crowd_are_ignored(tmp_path: Path) -> None:
    def mark_as_crowd(tree: dict[str, Any]) -> None:
        tree["annotations"][0]["iscrowd"] = 1

    truth = Coco(write_coco(tmp_path / "c", mark_as_crowd), "made").truth()
    found = as_detections(truth)
    inside = [1, 5, 8, 10, 10, 0.99, 1]  # the highest score, inside the crowd's box
    assert average_precision(truth, np.vstack([found, inside]))["AP"] == pytest.approx(100)
    beside = [2, 0, 0, 10, 10, 0.99, 1]
    assert average_precision(truth, np.vstack([found, beside]))["AP"] < 100


@needs_shared
@pytest.mark.parametrize("shift", [0.0, 3.0, 10.0])
def test_ap_of_shifted_boxes_is_that_of_pycocotools(shift: float) -> None:
    coco = Coco(SHARED / "data" / "coco-mini", "val2017")
    found = as_detections(coco.truth(), shift)
    ours = average_precision(coco.truth(), found)
    theirs = COCO(str(coco.file))
    records = [
        {"image_id": int(r[0]), "bbox": r[1:5].tolist(), "score": r[5], "category_id": int(r[6])}
        for r in found
    ]
    evaluation = COCOeval(theirs, theirs.loadRes(records), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert list(ours.values()) == pytest.approx((100 * evaluation.stats[:6]).tolist())
    assert (ours["AP"] == pytest.approx(100)) == (shift == 0)


def test_detections_are_sorted_by_score_with_boxes_in_pixels() -> None:
    logits = torch.full((1, 1, 2, 3), -5.0)
    logits[0, 0, 1, 2], logits[0, 0, 0, 1] = 3.0, 1.0
    boxes = torch.tensor([[[[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.5, 0.2]]]])
    outputs = Outputs(logits, boxes, Tokens([], [], torch.empty(0), torch.empty(0)))
    corners, scores, labels = top_detections(outputs, torch.tensor([[200, 100]]))
    assert labels[0, :2].tolist() == [2, 1]
    torch.testing.assert_close(corners[0, 0], torch.tensor([0.0, 40, 100, 60]))
    torch.testing.assert_close(corners[0, 1], torch.tensor([0.0, 0, 200, 100]))
    assert (scores[0].diff() <= 0).all()
    assert scores.shape == (1, 6)


def test_a_damaged_image_is_refused_or_counted_separately(
    tmp_path: Path, tiny_detection: MakeDetection
) -> None:
    root = write_coco(tmp_path / "c")
    settings = tiny_detection("train.epochs=1", arm="plain")
    train(settings, tmp_path / "run")
    (root / "made" / "002.png").write_bytes(b"no picture")
    detector, _ = read_detector(tmp_path / "run")
    coco = Coco(root, "made")
    with pytest.raises(VkdError, match=r"1 held-out images cannot be used: .*002\.png"):
        measure(detector, settings, coco, "cpu")
    skipping = tiny_detection("data.damaged=skip", arm="plain")
    result = measure(detector, skipping, coco, "cpu")
    assert (result["images"], result["damaged"]) == (5, 1)
