"""The assignment against brute force, the losses against a slow transcription of the formulas."""

import itertools
import math

import pytest
import torch
from torchvision.ops import box_convert, generalized_box_iou

from classification.detection.criterion import set_losses
from classification.detection.matching import Targets, cost, match
from classification.detection.network.vidt import Outputs, Tokens
from classification.detection.settings import CriterionSettings

SETTINGS = CriterionSettings(
    class_weight=1.5, box_weight=4.0, giou_weight=3.0, cost_class=0.7, cost_box=2.5, cost_giou=1.2,
    focal_alpha=0.3, focal_gamma=1.5,
)  # fmt: skip
NOTHING = Tokens([], [], torch.empty(0), torch.empty(0))


def drawn(
    counts: list[int], queries: int = 4, predictors: int = 2
) -> tuple[torch.Tensor, torch.Tensor, Targets]:
    generator = torch.Generator().manual_seed(sum(counts) + queries)
    images, total = len(counts), sum(counts)
    logits = torch.randn(predictors, images, queries, 5, generator=generator)
    boxes = torch.rand(predictors, images, queries, 4, generator=generator) / 2 + 0.2
    labels = torch.randint(5, (total,), generator=generator)
    return (
        logits,
        boxes,
        Targets(labels, torch.rand(total, 4, generator=generator) / 2 + 0.2, counts),
    )


def slow_cost(logits, box, label: int, target) -> float:
    p = 1 / (1 + math.exp(-float(logits[label])))
    present = 0.3 * (1 - p) ** 1.5 * -math.log(p + 1e-8)
    absent = 0.7 * p**1.5 * -math.log(1 - p + 1e-8)
    distance = sum(abs(float(a) - float(b)) for a, b in zip(box, target, strict=True))
    corners = [box_convert(x[None], "cxcywh", "xyxy") for x in (box, target)]
    overlap = float(generalized_box_iou(*corners))
    return 0.7 * (present - absent) + 2.5 * distance - 1.2 * overlap


@pytest.mark.parametrize("counts", [[2, 3], [0, 1], [4, 0], [6, 2], [0, 0]])
def test_the_assignment_has_the_lowest_cost_of_all(counts: list[int]) -> None:
    logits, boxes, targets = drawn(counts)
    matches = match(logits, boxes, targets, SETTINGS)
    found = list(zip(*(x.tolist() for x in matches), strict=True))
    first = 0
    for b, count in enumerate(counts):
        for k in range(2):
            table = [
                [slow_cost(logits[k, b, q], boxes[k, b, q], int(targets.labels[first + t]),
                           targets.boxes[first + t]) for t in range(count)]
                for q in range(4)
            ]  # fmt: skip
            few = min(count, 4)
            ways = [
                list(zip(queries, chosen, strict=True))
                for chosen in itertools.combinations(range(count), few)
                for queries in itertools.permutations(range(4), few)
            ]
            cheapest = min(ways, key=lambda way: sum(table[q][t] for q, t in way))
            expected = {(k, b, q, first + t) for q, t in cheapest}
            assert {m for m in found if m[:2] == (k, b)} == expected
        first += count


def test_costs_match_the_slow_transcription() -> None:
    logits, boxes, targets = drawn([3])
    table = cost(logits[:, 0], boxes[:, 0], targets.labels, targets.boxes, SETTINGS)
    for k, q, t in itertools.product(range(2), range(4), range(3)):
        expected = slow_cost(
            logits[k, 0, q], boxes[k, 0, q], int(targets.labels[t]), targets.boxes[t]
        )
        assert float(table[k, q, t]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("counts", [[2, 3], [0, 1], [0, 0]])
def test_losses_match_the_slow_transcription(counts: list[int]) -> None:
    logits, boxes, targets = drawn(counts)
    losses = set_losses(Outputs(logits, boxes, NOTHING), targets, SETTINGS)
    matches = list(zip(*(x.tolist() for x in match(logits, boxes, targets, SETTINGS)), strict=True))
    classes = distance = overlap = 0.0
    labelled = {m[:3]: int(targets.labels[m[3]]) for m in matches}
    for place in itertools.product(range(2), range(len(counts)), range(4)):
        for c in range(5):
            p = float(logits[(*place, c)].double().sigmoid())
            if labelled.get(place) == c:
                classes += 0.3 * (1 - p) ** 1.5 * -math.log(p)
            else:
                classes += 0.7 * p**1.5 * -math.log(1 - p)
    for k, b, q, t in matches:
        ours, theirs = boxes[k, b, q], targets.boxes[t]
        distance += float((ours - theirs).abs().sum())
        corners = [box_convert(x[None], "cxcywh", "xyxy") for x in (ours, theirs)]
        overlap += 1 - float(generalized_box_iou(*corners))
    objects = max(1, sum(counts))
    expected = {"class_loss": 1.5 * classes, "box_loss": 4 * distance, "giou_loss": 3 * overlap}
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert float(loss) == pytest.approx(expected[name] / objects, rel=1e-4, abs=1e-6)


def test_images_without_objects_lower_all_class_scores() -> None:
    logits, boxes, targets = drawn([0, 0])
    logits.requires_grad_()
    boxes.requires_grad_()
    losses = set_losses(Outputs(logits, boxes, NOTHING), targets, SETTINGS)
    sum(losses.values()).backward()
    assert (logits.grad > 0).all()
    assert not boxes.grad.any()


@pytest.mark.parametrize("counts", [[2, 0, 3, 1], [0, 0, 4, 1], [1, 1, 1, 1]])
@pytest.mark.parametrize("parts", [2, 4])
def test_the_mean_loss_of_the_parts_is_that_of_the_batch(counts: list[int], parts: int) -> None:
    logits, boxes, targets = drawn(counts)
    whole = set_losses(Outputs(logits, boxes, NOTHING), targets, SETTINGS)
    chunks = zip(logits.chunk(parts, 1), boxes.chunk(parts, 1), targets.chunk(parts), strict=True)
    found = [set_losses(Outputs(x, y, NOTHING), part, SETTINGS) for x, y, part in chunks]
    for name, loss in whole.items():
        mean = sum(float(losses[name]) for losses in found) / parts
        assert mean == pytest.approx(float(loss), rel=1e-5)
