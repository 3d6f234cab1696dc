"""A detector's update: losses, weight decay, convergence, precision."""

from pathlib import Path

import pytest
import torch

from classification.detection.criterion import set_losses
from classification.detection.data.coco import Coco
from classification.detection.data.feed import Feed
from classification.detection.learner import Learner
from classification.detection.network.build import load_detector, make_detector
from classification.detection.settings import DetectionSettings
from gan_vkd.runtime import precision
from tests.classification.detection.conftest import MakeDetection


def learner_of(settings: DetectionSettings) -> tuple[Learner, Feed]:
    feed = Feed(settings, Coco(Path(settings.data.root), "made"), "cpu")
    torch.manual_seed(0)
    detector = make_detector(settings.student, 4)
    teacher = load_detector(settings.teacher, 4, teacher=True) if settings.teacher else None
    return Learner(settings, detector, teacher, feed.per_epoch, "cpu"), feed


def test_losses_are_those_of_the_objects_and_the_weighted_distillation(
    tiny_detection: MakeDetection,
) -> None:
    learner, feed = learner_of(tiny_detection("distill.weight=3", "student.dropout=0"))
    assert learner.teacher is not None
    assert learner.distill is not None
    learner.detector.eval()  # without stochastic depth
    batch = feed(0)
    losses = learner.losses(batch, 0)
    outputs = learner.detector(batch.images, batch.padding)
    teacher_outputs = learner.teacher(batch.images, batch.padding)
    expected = set_losses(outputs, batch.targets, learner.settings.criterion)
    terms = learner.distill(outputs.tokens, teacher_outputs.tokens)
    expected |= {name: 3 * term for name, term in terms.items()}
    assert losses.keys() == expected.keys()
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss)


def test_weight_decay_is_that_of_vidt(tiny_detection: MakeDetection) -> None:
    learner, _ = learner_of(
        tiny_detection("train.weight_decay=0.07", "train.projection_weight_decay=0")
    )
    names = {p: name for name, p in learner.detector.named_parameters()}
    for group in learner.optimizer.param_groups:
        for p in group["params"]:
            name = names.get(p, "thrown away")
            body = name.startswith("body.")
            spared = body and (p.ndim < 2 or name in ("body.det_token", "body.det_position"))
            expected = 0 if spared or name == "thrown away" else 0.07
            assert group["weight_decay"] == expected, name


def test_the_body_has_a_share_of_the_learning_rate(tiny_detection: MakeDetection) -> None:
    learner, feed = learner_of(tiny_detection("train.body_rate=0.1"))
    learner.step(feed(0), 0)
    names = {p: name for name, p in learner.detector.named_parameters()}
    for group in learner.optimizer.param_groups:
        body = any(names.get(p, "").startswith("body.") for p in group["params"])
        assert group["lr"] == pytest.approx(learner.rate.now * (0.1 if body else 1))


def test_weight_decay_of_projections_is_a_setting(tiny_detection: MakeDetection) -> None:
    learner, _ = learner_of(tiny_detection("train.weight_decay=0.07", "distill.projection=cayley"))
    assert learner.distill is not None
    decays = {p: g["weight_decay"] for g in learner.optimizer.param_groups for p in g["params"]}
    for name, p in learner.distill.named_parameters():
        assert decays[p] == (1e-4 if name.endswith("tangent") else 0), name


def test_training_lowers_the_losses(tiny_detection: MakeDetection) -> None:
    settings = tiny_detection(
        "train.epochs=40", "train.lr=8e-3", "student.dropout=0",
        "augment={scales: [64], longest: 64, flip: 0, crop_scales: []}", arm="plain",
    )  # fmt: skip
    learner, feed = learner_of(settings)
    logged = [learner.step(feed(i), i) for i in range(60)]
    losses = [float(sum(x for name, x in t.items() if "loss" in name)) for t in logged]
    assert sum(losses[-6:]) < 0.5 * sum(losses[:6])


@pytest.mark.parametrize("projection", ["orthogonal", "linear", "mlp"])
def test_boxes_and_distillation_stay_float32_with_bfloat16(
    projection: str, tiny_detection: MakeDetection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_supports", lambda kind, name: True)
    settings = tiny_detection(
        "train.precision=bfloat16", "train.teacher_precision=bfloat16",
        f"distill.projection={projection}",
    )  # fmt: skip
    learner, feed = learner_of(settings)
    batch = feed(0)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = learner.detector(batch.images, batch.padding)
    assert outputs.boxes.dtype == torch.float32
    losses = learner.step(feed(0), 0)
    assert all(loss.isfinite() for loss in losses.values())
