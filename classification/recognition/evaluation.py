"""Top-1 and top-5 accuracy, exact on any number of ranks: every held-out image counts once."""

from pathlib import Path
from typing import Any

import torch

from classification.recognition.data.feed import heldout_batches
from classification.recognition.data.images import Images, load_heldout_images
from classification.recognition.network.students import Student
from classification.recognition.run import read_student
from classification.recognition.settings import ClassifierSettings
from gan_vkd.runtime import ranks
from gan_vkd.runtime.devices import pick_device
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.folder import RunFolder


def evaluate_run(folder: Path, settings: ClassifierSettings) -> dict[str, Any]:
    """Measures a student on the settings' held-out images; a run also records it.

    Args:
        folder: a run folder, whose best student is measured, or a file of weights.
        settings: the images; for files without facts also the student.

    Raises:
        SettingsError: no held-out images, or images of other classes.
        VkdError: no student, or images that cannot be used.
    """
    with ranks.joined():
        device = pick_device(settings.device)
        is_run = user_path(folder).is_dir()
        student, facts = read_student(folder, device, None if is_run else settings.student)
        classes = facts["classes"]
        images = load_heldout_images(settings.data, None if facts["numbered"] else classes)
        if images is None:
            raise SettingsError("data.heldout = null: no images to measure on")
        if len(images.classes) != len(classes):
            raise SettingsError(
                f"data.heldout = {settings.data.heldout}: has {len(images.classes)} classes, but "
                f"{folder} predicts {len(classes)}"
            )
        result = measure(student, settings, images, device)
        record = {"heldout": settings.data.heldout, "epoch": facts.get("epoch")} | result
        if is_run and ranks.is_first():
            RunFolder(folder).append("evaluations", record)
        return record


@torch.no_grad()
def measure(
    student: Student, settings: ClassifierSettings, images: Images, device: str
) -> dict[str, Any]:
    """The share of images, in percent, whose class is predicted first, or among the first five.

    Always in float32, whatever the training's precision. With data.damaged=skip, files that cannot
    be used are counted separately.

    Args:
        student: measured in eval mode, and left in the mode it was in.
        settings: of the run: transform, batches, what to do with damaged files.
        images: all of them; each rank measures a part.
        device: the student's device.

    Raises:
        VkdError: a file that cannot be used, or none that can.
    """
    training = student.training
    student.eval()
    counts = torch.zeros(4, dtype=torch.int64, device=device)
    faults: list[str] = []
    for pixels, labels, found in heldout_batches(settings, images, device):
        if any(found):
            faults += [fault for fault in found if fault]
            good = torch.tensor([not fault for fault in found])
            pixels, labels = pixels[good], labels[good]
        to: Any = {"device": device, "non_blocking": True}
        logits, labels = student(pixels.to(**to)), labels.to(**to)
        first = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        finite = logits.isfinite().all(1)
        counts += torch.stack(
            [first[:, 0].sum(), first.any(1).sum(), torch.tensor(len(labels), device=device),
             (~finite).sum()]
        )  # fmt: skip
    student.train(training)
    top1, top5, count, not_finite = ranks.total(counts).tolist()
    faults = [fault for part in ranks.all_parts(faults) for fault in part]
    if faults and (settings.data.damaged == "refuse" or not count):
        raise VkdError(
            f"{len(faults)} held-out images cannot be used: {'; '.join(faults[:5])}. Repair or "
            "remove them, or set data.damaged=skip"
        )
    result = {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "images": count}
    if not_finite:
        result["not_finite"] = not_finite
    return result | ({"damaged": len(faults)} if faults else {})
