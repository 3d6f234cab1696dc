"""Matching of predictions to objects: the assignment of least cost (DETR, ECCV 2020)."""

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from classification.detection.settings import CriterionSettings


class Targets(NamedTuple):
    """The objects of B images, one image after the other.

    labels: (T,). boxes: (T, 4), centre and size relative to the unpadded image. counts: objects in
    each image. typical: the number of objects that losses are divided by; None: T.
    """

    labels: Tensor
    boxes: Tensor
    counts: list[int]
    typical: float | None = None

    @property
    def objects(self) -> float:
        return float(sum(self.counts)) if self.typical is None else self.typical

    def chunk(self, parts: int) -> list["Targets"]:
        """Splits by equal parts of the images; all parts' losses are divided by the same number."""
        images, typical = len(self.counts) // parts, self.objects / parts
        counts = [self.counts[i * images : (i + 1) * images] for i in range(parts)]
        sizes = [sum(part) for part in counts]
        found = zip(self.labels.split(sizes), self.boxes.split(sizes), counts, strict=True)
        return [Targets(*part, typical) for part in found]

    def to(self, device: str) -> "Targets":
        labels, boxes = (x.to(device, non_blocking=True) for x in (self.labels, self.boxes))
        return self._replace(labels=labels, boxes=boxes)


class Matches(NamedTuple):
    """Predictor, image and query of each match (M,), and the index of its target."""

    predictor: Tensor
    image: Tensor
    query: Tensor
    target: Tensor

    @property
    def place(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.predictor, self.image, self.query


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, targets: Targets, settings: CriterionSettings) -> Matches:
    """Matches the queries of each predictor separately to the objects.

    All costs are copied to the host at once, where SciPy solves the assignments. Costs that are not
    finite are replaced, since the losses will show the fault.

    Args:
        logits: (K, B, Q, C).
        boxes: (K, B, Q, 4).
        targets: T objects; an image may have none, or more objects than queries.
        settings: weights of the costs, and of the focal loss.
    """
    costs = [
        cost(logits[:, b], boxes[:, b], labels, corners, settings)
        for b, (labels, corners) in enumerate(
            zip(targets.labels.split(targets.counts), targets.boxes.split(targets.counts),
                strict=True)
        )
    ]  # fmt: skip
    sizes = [x.numel() for x in costs]
    together = torch.cat([x.flatten() for x in costs]).nan_to_num().cpu()
    found: list[tuple[int, int, int, int]] = []
    first = 0
    for b, flat in enumerate(together.split(sizes)):
        table = flat.view(costs[b].shape).numpy()
        for k, costs_of_one in enumerate(table):
            pairs = zip(*linear_sum_assignment(costs_of_one), strict=True)
            found += [(k, b, int(query), first + int(target)) for query, target in pairs]
        first += targets.counts[b]
    places = torch.tensor(found, dtype=torch.int64).view(-1, 4).to(logits.device)
    return Matches(*places.unbind(1))


def cost(
    logits: Tensor, boxes: Tensor, labels: Tensor, corners: Tensor, settings: CriterionSettings
) -> Tensor:
    """The cost (K, Q, T) of matching each query of an image to each of its T objects.

    The weighted sum of the change of the focal loss by the class, the L1 distance of the boxes and
    their negative generalised IoU.
    """
    p, alpha, gamma = logits.float().sigmoid(), settings.focal_alpha, settings.focal_gamma
    absent = (1 - alpha) * p**gamma * -(1 - p + 1e-8).log()
    present = alpha * (1 - p) ** gamma * -(p + 1e-8).log()
    of_class = (present - absent)[..., labels]
    boxes = boxes.float()
    of_box = torch.cdist(boxes, corners.expand(len(boxes), -1, -1), p=1)
    ours, theirs = (box_convert(x, "cxcywh", "xyxy") for x in (boxes.flatten(0, 1), corners))
    overlap = generalized_box_iou(ours, theirs).view_as(of_box)
    weights = settings.cost_class, settings.cost_box, settings.cost_giou
    return weights[0] * of_class + weights[1] * of_box - weights[2] * overlap
