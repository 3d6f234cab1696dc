"""ViDT+: fused maps, predicted overlaps and dropped layers, against transcriptions."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from classification.detection.criterion import set_losses
from classification.detection.data.coco import load_heldout_images
from classification.detection.evaluation import detect_all
from classification.detection.matching import match
from classification.detection.network.build import make_detector
from classification.detection.network.fusion import Fusion
from classification.detection.network.published import to_published
from classification.detection.network.vidt import Outputs, ViDT
from classification.detection.run import read_detector
from classification.detection.settings import DetectorSettings, load_settings
from gan_vkd.runtime.errors import SettingsError
from tests.classification.conftest import CONFIGS
from tests.classification.detection.conftest import MakeDetection
from tests.classification.detection.test_learner import learner_of
from tests.classification.detection.test_matching import NOTHING, SETTINGS, drawn

SMALL = {"size": "nano", "queries": 6, "width": 32, "layers": 3, "hidden": 48,
         "fusion": True, "iou_aware": True}  # fmt: skip
IMAGES, PADDING = torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)


def small(**changes: Any) -> ViDT:
    torch.manual_seed(5)
    detector = make_detector(DetectorSettings(**(SMALL | changes)), 4).eval()
    state = {name: x + torch.randn_like(x) / 20 for name, x in detector.state_dict().items()}
    detector.load_state_dict(state)
    return detector


def published_fusion(state: dict[str, Tensor], maps: list[Tensor]) -> list[Tensor]:
    """As the released code computes it, from weights of the published names."""

    def conv(x: Tensor, name: str, padding: int = 0) -> Tensor:
        weight, bias = (state[f"fusion.multi_scaler.{name}.{part}"] for part in ("weight", "bias"))
        return F.conv2d(x, weight, bias, padding=padding)

    def unit(x: Tensor, name: str) -> Tensor:
        y = conv(F.relu(x), f"{name}.conv1")
        y = conv(F.relu(y), f"{name}.conv2", padding=1)
        return conv(F.relu(y), f"{name}.conv3") + x

    found: list[Tensor] = []
    for i in (3, 2, 1, 0):
        block, x = f"refinenet_{i}", maps[i]
        if found:
            size = (x.shape[2], x.shape[3])
            y = F.interpolate(found[-1], size=size, mode="bilinear", align_corners=True)
            x = conv(y, f"{block}.smoothing") + unit(x, f"{block}.resConfUnit1")
        found.append(unit(x, f"{block}.resConfUnit2"))
    return found


def test_maps_are_fused_as_in_the_released_code() -> None:
    detector = small()
    assert detector.fusion is not None
    maps = [torch.randn(2, 32, side, side + 2) for side in (16, 8, 4, 2)]
    expected = published_fusion(to_published(detector.state_dict()), maps)
    for ours, theirs in zip(detector.fusion(maps), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    sides = [x.shape[2] for x in detector(IMAGES, PADDING).tokens.patches]
    assert sides == sorted(sides)


def test_the_fusion_has_the_published_number_of_parameters() -> None:
    """1.06 million with the unused block; the maps' reduction is ViDT's own."""
    with torch.device("meta"):
        plain, fused = ViDT("nano"), ViDT("nano", fusion=True)
    assert isinstance(fused.fusion, Fusion)
    added = sum(p.numel() for p in fused.parameters()) - sum(p.numel() for p in plain.parameters())
    unit = 256 * 64 + 64 + 64 * 64 * 9 + 64 + 64 * 256 + 256
    assert added == 4 * (2 * unit + 256 * 256 + 256)


@pytest.mark.parametrize("counts", [[2, 3], [0, 1], [0, 0]])
def test_overlaps_are_learnt_by_cross_entropy(counts: list[int]) -> None:
    logits, boxes, targets = drawn(counts)
    boxes.requires_grad_()
    overlaps = torch.randn(logits.shape[:3])
    losses = set_losses(Outputs(logits, boxes, NOTHING, overlaps), targets, SETTINGS)
    total = 0.0
    matches = match(logits, boxes, targets, SETTINGS)
    for k, b, q, t in zip(*(x.tolist() for x in matches), strict=True):
        pair = [box_convert(x[None], "cxcywh", "xyxy") for x in (boxes[k, b, q], targets.boxes[t])]
        iou, p = float(box_iou(*pair).detach()), 1 / (1 + math.exp(-float(overlaps[k, b, q])))
        total -= iou * math.log(p) + (1 - iou) * math.log(1 - p)
    expected = SETTINGS.iou_weight * total / max(1, sum(counts))
    assert float(losses["iou_loss"].detach()) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    if sum(counts):
        (gradient,) = torch.autograd.grad(losses["iou_loss"], boxes)
        assert gradient.abs().sum() > 0  # the IoU is not detached, as published


def test_without_iou_awareness_nothing_changes() -> None:
    logits, boxes, targets = drawn([2, 3])
    with_overlaps = set_losses(
        Outputs(logits, boxes, NOTHING, torch.zeros(logits.shape[:3])), targets, SETTINGS
    )
    plain = set_losses(Outputs(logits, boxes, NOTHING), targets, SETTINGS)
    assert with_overlaps.keys() - plain.keys() == {"iou_loss"}
    assert all(torch.equal(value, with_overlaps[name]) for name, value in plain.items())


@torch.no_grad()
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_dropped_layers_leave_the_predictors_before_them(layers: int) -> None:
    detector = small()
    whole, part = detector(IMAGES, PADDING), detector(IMAGES, PADDING, layers)
    assert len(part.logits) == layers + 1
    for name in ("logits", "boxes", "overlaps"):
        torch.testing.assert_close(getattr(part, name), getattr(whole, name)[: layers + 1])


def test_an_evaluation_drops_layers(tiny_detection: MakeDetection) -> None:
    settings = tiny_detection("student.layers=2", arm="plain")
    torch.manual_seed(0)
    detector = make_detector(settings.student, 4)
    images = load_heldout_images(settings.data, None)
    assert images is not None
    found = []
    for layers in (None, 2, 1, 0):
        evaluate = settings.evaluate.model_copy(update={"layers": layers})
        changed = settings.model_copy(update={"evaluate": evaluate})
        found.append(detect_all(detector, changed, images, "cpu")[0])
    assert (found[0] == found[1]).all()
    assert (found[1] != found[2]).any()
    assert (found[2] != found[3]).any()


def test_more_layers_than_the_neck_has_are_refused(tiny_detection: MakeDetection) -> None:
    with pytest.raises(SettingsError, match=r"evaluate\.layers is more than student\.layers"):
        tiny_detection("evaluate.layers=3", arm="plain")


def test_fused_and_iou_aware_students_are_trained(tiny_detection: MakeDetection) -> None:
    learner, feed = learner_of(
        tiny_detection("student.fusion=true", "student.iou_aware=true", arm="plain")
    )
    detector = learner.detector
    before = {name: parameter.clone() for name, parameter in detector.named_parameters()}
    losses = [learner.step(feed(number), number) for number in range(2)]
    assert all(float(step["iou_loss"]) > 0 for step in losses)
    for name, parameter in detector.named_parameters():
        if name.startswith(("fusion.", "overlap_heads.")):
            assert not torch.equal(parameter, before[name]), name


@torch.no_grad()
def test_files_of_vidt_plus_are_read(tmp_path: Path) -> None:
    theirs = small()
    state = to_published(theirs.state_dict())
    assert "fusion.multi_scaler.p_norm_0.weight" in state
    assert "iou_embed.3.layers.2.bias" in state
    assert not any(name.startswith("input_proj.") for name in state)
    for name in ("token_embed", "enc_output", "enc_output_norm"):
        state[f"transformer.{name}.weight"] = torch.ones(32)
    state["vector_embed.0.layers.0.weight"] = torch.ones(32, 32)
    torch.save({"model": state}, tmp_path / "vidt_plus.pth")
    ours, facts = read_detector(tmp_path / "vidt_plus.pth")
    assert (facts["detector"]["fusion"], facts["detector"]["iou_aware"]) == (True, True)
    found, expected = ours(IMAGES, PADDING), theirs(IMAGES, PADDING)
    for name in ("logits", "boxes", "overlaps"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))


def test_teacher_and_student_are_fused_alike() -> None:
    fused = ["student.fusion=true", "teacher.weights=x", "data.root=x"]
    with pytest.raises(SettingsError, match="set it alike in both"):
        load_settings(CONFIGS / "coco_vidt_nano+objectives/vidt_vkd", fused)
