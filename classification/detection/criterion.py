"""The detection loss: class, box and overlap losses of every predictor."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from classification.detection.matching import Targets, match
from classification.detection.network.vidt import Outputs
from classification.detection.settings import CriterionSettings
from gan_vkd.runtime import ranks


def set_losses(
    outputs: Outputs, targets: Targets, settings: CriterionSettings
) -> dict[str, Tensor]:
    """The weighted losses by name, each summed over the K predictors.

    Focal loss over all classes and queries; L1 and generalised IoU losses of the matched boxes. All
    are divided by the mean number of objects per rank (Carion et al. 2020; Zhu et al. 2021). A
    detector that predicts overlaps also has the cross-entropy between them and the matched boxes'
    IoU (Wu et al. 2020), which is not detached, as in ViDT+.
    """
    logits, boxes = outputs.logits.float(), outputs.boxes.float()
    matches = match(logits, boxes, targets, settings)
    objects = max(1.0, float(ranks.mean(torch.tensor(targets.objects))))  # read on the host

    one_hot = torch.zeros_like(logits)
    one_hot[(*matches.place, targets.labels[matches.target])] = 1
    classes = sigmoid_focal_loss(
        logits, one_hot, settings.focal_alpha, settings.focal_gamma, reduction="sum"
    )
    ours, theirs = boxes[matches.place], targets.boxes[matches.target]
    corners = [box_convert(x, "cxcywh", "xyxy") for x in (ours, theirs)]
    overlap = generalized_box_iou_loss(*corners, reduction="sum")
    losses = {
        "class_loss": settings.class_weight * classes / objects,
        "box_loss": settings.box_weight * F.l1_loss(ours, theirs, reduction="sum") / objects,
        "giou_loss": settings.giou_weight * overlap / objects,
    }
    if outputs.overlaps is not None:
        predicted = outputs.overlaps.float()[matches.place]
        iou = paired_iou(*corners)
        aware = F.binary_cross_entropy_with_logits(predicted, iou, reduction="sum")
        losses["iou_loss"] = settings.iou_weight * aware / objects
    return losses


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (M,) of the boxes in each row of two lists of corners (M, 4)."""
    sides = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
    shared = sides.clamp_min(0).prod(1)
    areas = [(x[:, 2:] - x[:, :2]).prod(1) for x in (a, b)]
    return shared / (areas[0] + areas[1] - shared)
