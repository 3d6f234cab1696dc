"""Average precision as COCO measures it, exact on any number of ranks: each image counts once."""

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
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.folder import RunFolder

PER_IMAGE = 100  # most detections in an image, as in COCO
MEASURES = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")


def evaluate_run(folder: Path, settings: DetectionSettings) -> dict[str, Any]:
    """Measures a detector on the settings' held-out images; a run also records it.

    Args:
        folder: a run folder, whose best detector is measured, or a file of weights.
        settings: of the images.

    Raises:
        SettingsError: no held-out images, or images with other categories.
        VkdError: no detector, or images that cannot be used.
    """
    with ranks.joined():
        device = pick_device(settings.device)
        detector, facts = read_detector(folder, device)
        categories = {int(number): name for number, name in facts["categories"].items()}
        images = load_heldout_images(settings.data, None if facts["numbered"] else categories)
        if images is None:
            raise SettingsError("data.heldout = null: no images to measure on")
        if max(images.categories) >= facts["classes"]:
            raise SettingsError(
                f"data.heldout = {settings.data.heldout}: has category {max(images.categories)}, "
                f"but {folder} predicts numbers below {facts['classes']}"
            )
        result = measure(detector, settings, images, device)
        own = {"heldout": settings.data.heldout, "epoch": facts.get("epoch")}
        if settings.evaluate.layers is not None:
            own["layers"] = settings.evaluate.layers
        record = own | result
        if user_path(folder).is_dir() and ranks.is_first():
            RunFolder(folder).append("evaluations", record)
        return record


def measure(
    detector: ViDT, settings: DetectionSettings, images: Coco, device: str
) -> dict[str, Any]:
    """AP, AP50, AP75, and AP of small, medium and large objects, in percent.

    Always in float32, whatever the training's precision. A measure without objects to detect is
    left out.

    Args:
        detector: measured in eval mode, and left in the mode it was in.
        settings: of the run: size, batches, what to do with damaged files.
        images: all of them; each rank measures a part.
        device: the detector's device.

    Raises:
        VkdError: a file that cannot be used, with data.damaged=refuse, or none that can.
    """
    detections, used, faults = detect_all(detector, settings, images, device)
    if faults and (settings.data.damaged == "refuse" or not used):
        raise VkdError(
            f"{len(faults)} held-out images cannot be used: {'; '.join(faults[:5])}. Repair or "
            "remove them, or set data.damaged=skip"
        )

    def score() -> dict[str, Any]:
        return average_precision(images.truth(), detections, set(used))

    result = ranks.from_first(score) | {"images": len(used)}
    return result | ({"damaged": len(faults)} if faults else {})


@torch.no_grad()
def detect_all(
    detector: ViDT, settings: DetectionSettings, images: Coco, device: str
) -> tuple[np.ndarray, list[int], list[str]]:
    """Detects objects in the images of all ranks.

    Returns:
        detections (N, 7) as for `average_precision`, the ids of the images used, and faults.
    """
    training = detector.training
    detector.eval()
    found = [np.empty((0, 7))]
    faults: list[str] = []
    used: list[int] = []
    for batch in heldout_batches(settings, images, device):
        faults += batch.faults
        if not batch.indices:
            continue
        entries = [images.images[i] for i in batch.indices]
        used += [entry["id"] for entry in entries]
        sizes = torch.tensor([[e["width"], e["height"]] for e in entries], device=device)
        outputs = detector(batch.images, batch.padding, settings.evaluate.layers)
        boxes, scores, labels = top_detections(outputs, sizes)
        ids = torch.tensor([e["id"] for e in entries], device=device)
        columns = [
            ids[:, None, None].expand(-1, scores.shape[1], -1),
            box_convert(boxes, "xyxy", "xywh"),
            scores[..., None],
            labels[..., None],
        ]
        found.append(torch.cat([x.double() for x in columns], -1).flatten(0, 1).cpu().numpy())
    detector.train(training)
    parts = ranks.all_parts((np.concatenate(found), used, faults))
    return (
        np.concatenate([part[0] for part in parts]),
        [number for part in parts for number in part[1]],
        [fault for part in parts for fault in part[2]],
    )


def top_detections(outputs: Outputs, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The last predictor's boxes with the highest scores.

    Args:
        outputs: the detector's outputs for B images.
        sizes: (B, 2), width and height of the images in pixels.

    Returns:
        corners (B, n, 4) in pixels, scores and categories (B, n), highest score first; n is
        PER_IMAGE, or queries times classes if that is less.
    """
    logits, boxes = outputs.logits[-1].float(), outputs.boxes[-1].float()
    classes = logits.shape[-1]
    scores, places = logits.sigmoid().flatten(1).topk(min(PER_IMAGE, logits[0].numel()))
    chosen = (places // classes)[..., None].expand(-1, -1, 4)
    corners = box_convert(boxes, "cxcywh", "xyxy").gather(1, chosen)
    return corners * sizes.repeat(1, 2)[:, None], scores, places % classes


def require_pycocotools() -> None:
    """Checks that pycocotools is installed, before a training that evaluates with it.

    Raises:
        VkdError: it is missing.
    """
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
        images: ids of the images to evaluate; None: all.

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
