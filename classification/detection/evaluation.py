"""Average precision as COCO measures it, exact over ranks: every held-out image is seen once."""

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

from classification.detection.data.coco import Coco, load_heldout_images
from classification.detection.data.feed import heldout_batches
from classification.detection.network.vidt import Outputs, ViDT
from classification.detection.run import read_detector
from classification.detection.settings import DetectionSettings
from gan_vkd.runtime import ranks
from gan_vkd.runtime.devices import pick_device
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.folder import RunFolder

PER_IMAGE = 100  # detections, as COCO counts
MEASURES = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")


def evaluate_run(folder: Path, settings: DetectionSettings) -> dict[str, Any]:
    """Measures a run's best detector on the settings' held-out images and records it.

    Raises:
        SettingsError: no held-out images, or such of other categories.
        VkdError: no detector, or images that cannot be used.
    """
    with ranks.joined():
        device = pick_device(settings.device)
        detector, facts = read_detector(folder, device)
        categories = {int(number): name for number, name in facts["categories"].items()}
        images = load_heldout_images(settings.data, categories)
        if images is None:
            raise SettingsError("data.heldout = null: nothing to measure on")
        result = measure(detector, settings, images, device)
        record = {"heldout": settings.data.heldout, "epoch": facts.get("epoch")} | result
        if ranks.is_first():
            RunFolder(folder).append("evaluations", record)
        return record


def measure(
    detector: ViDT, settings: DetectionSettings, images: Coco, device: str
) -> dict[str, Any]:
    """AP, AP50, AP75, and AP of small, medium and large objects, in percent.

    Always in float32, whatever the training's precision. A measure without any object to find is
    left out.

    Args:
        detector: measured in eval mode, and left in the mode it was in.
        settings: of the run: size, batches, what to do with damaged files.
        images: all of them; of several ranks each measures a part.
        device: where the detector lies.

    Raises:
        VkdError: a file that cannot be used, with data.damaged=refuse, or none that can.
    """
    detections, seen, faults = find_all(detector, settings, images, device)
    if faults and (settings.data.damaged == "refuse" or not seen):
        raise VkdError(
            f"{len(faults)} held-out images cannot be used: {'; '.join(faults[:5])}. Mend or "
            "remove them, or set data.damaged=skip"
        )

    def judge() -> dict[str, Any]:
        return average_precision(images.truth(), detections, set(seen))

    result = ranks.from_first(judge) | {"images": len(seen)}
    return result | ({"damaged": len(faults)} if faults else {})


@torch.no_grad()
def find_all(
    detector: ViDT, settings: DetectionSettings, images: Coco, device: str
) -> tuple[np.ndarray, list[int], list[str]]:
    """What all ranks together find.

    Returns:
        detections (N, 7) as of `average_precision`, ids of the images that were seen, and faults.
    """
    training = detector.training
    detector.eval()
    found = [np.empty((0, 7))]
    faults: list[str] = []
    seen: list[int] = []
    for batch in heldout_batches(settings, images, device):
        faults += batch.faults
        if not batch.indices:
            continue
        entries = [images.images[i] for i in batch.indices]
        seen += [entry["id"] for entry in entries]
        sizes = torch.tensor([[e["width"], e["height"]] for e in entries], device=device)
        boxes, scores, labels = best(detector(batch.images, batch.padding), sizes)
        numbers = torch.tensor([e["id"] for e in entries], device=device)
        columns = [
            numbers[:, None, None].expand(-1, scores.shape[1], -1),
            box_convert(boxes, "xyxy", "xywh"),
            scores[..., None],
            labels[..., None],
        ]
        found.append(torch.cat([x.double() for x in columns], -1).flatten(0, 1).cpu().numpy())
    detector.train(training)
    parts = ranks.all_parts((np.concatenate(found), seen, faults))
    return (
        np.concatenate([part[0] for part in parts]),
        [number for part in parts for number in part[1]],
        [fault for part in parts for fault in part[2]],
    )


def best(said: Outputs, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The last predictor's boxes of the highest scores.

    Args:
        said: of B images.
        sizes: (B, 2), width and height that the boxes are wanted in.

    Returns:
        corners (B, n, 4) in pixels, scores and categories (B, n), best first; n is PER_IMAGE, or
        less where there are fewer queries times classes.
    """
    logits, boxes = said.logits[-1].float(), said.boxes[-1].float()
    classes = logits.shape[-1]
    scores, places = logits.sigmoid().flatten(1).topk(min(PER_IMAGE, logits[0].numel()))
    chosen = (places // classes)[..., None].expand(-1, -1, 4)
    corners = box_convert(boxes, "cxcywh", "xyxy").gather(1, chosen)
    return corners * sizes.repeat(1, 2)[:, None], scores, places % classes


def require_pycocotools() -> None:
    """Called before a training, whose first evaluation would be too late."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise VkdError(f"AP needs pycocotools ({error}); pip install pycocotools") from None


def average_precision(
    truth: dict[str, Any], detections: np.ndarray, images: set[int] | None = None
) -> dict[str, float]:
    """COCO's measures by pycocotools, in percent.

    Args:
        truth: images, annotations and categories in COCO's format.
        detections: (N, 7): image, left, top, width, height, score, category.
        images: numbers of those that count; None: all.

    Raises:
        VkdError: pycocotools is missing.
    """
    require_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        if images is not None:
            evaluation.params.imgIds = sorted(images)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = zip(MEASURES, evaluation.stats[:6].tolist(), strict=True)
    return {name: 100 * value for name, value in values if value >= 0}
