"""Teachers' outputs for fixed views (augment.views): computed once, and kept in a file.

Otherwise a student gets another view at every time, often mixed with another image, which a teacher
has to see too: fixed targets for other views than the student's are worse than those for the same
ones (Beyer et al., CVPR 2022). Stored outputs for the same views: TinyViT (Wu et al., ECCV 2022).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from classification.recognition.data.feed import Feed, view_of
from classification.recognition.learner import Learner
from gan_vkd.runtime import ranks
from gan_vkd.runtime.bars import progress_bar
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.stopping import outlive
from gan_vkd.teachers.features import compute_once, teacher_facts

BATCH = 64  # images; teachers are larger than students


def remember(learner: Learner, feed: Feed) -> None:
    """Gives a learner its teachers' logits and features for every view of every training image.

    They are float32 on the device, C + dt values for each image, view and teacher.

    Args:
        learner: whose teachers are asked. With an early layer, whose maps are large, nothing is
            remembered.
        feed: of fixed views.
    """
    settings, views = learner.settings, learner.settings.augment.views
    if views is None or not learner.teachers or settings.objective.early is not None:
        return

    def compute(rows: Tensor) -> Tensor:
        return _outputs(learner, feed, [view_of(row, views) for row in rows.tolist()])

    def facts() -> dict[str, Any]:
        return {
            "data": feed.images.fingerprint(),
            "images": settings.data.model_dump(include={"resolution", "mean", "std"}),
            "views": settings.augment.model_dump(),
            "precision": learner.teacher_precision,
            "teachers": [teacher_facts(teacher) for teacher in learner.teachers],
        }

    folder = None if settings.cache is None else user_path(settings.cache)
    weights = nn.ModuleList(learner.teachers).state_dict()
    rows = feed.images.count * views
    found = ranks.from_first(lambda: compute_once(compute, rows, folder, facts, weights).cpu())
    learner.remembered = found.to(learner.device)


def _outputs(learner: Learner, feed: Feed, places: Sequence[Any]) -> Tensor:
    """Logits and features of all teachers side by side, a row for each (key, index)."""
    workers = feed.settings.data.workers
    loader: DataLoader[Any] = DataLoader(
        feed.items(),
        batch_size=BATCH,
        sampler=places,
        num_workers=workers,
        worker_init_fn=outlive,
        prefetch_factor=2 if workers else None,
    )
    found = []
    for images, _, faults in progress_bar(loader, "teacher outputs"):
        feed.faults.report(fault for fault in faults if fault)
        outputs = learner.teacher_outputs(images.to(learner.device))
        found.append(torch.cat([x.float() for o in outputs for x in (o.logits, o.features)], 1))
    return torch.cat(found)
