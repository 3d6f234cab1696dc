"""Two ranks evaluate, distil and, padding alike, train as one process on the whole batch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from classification.detection.data.coco import Coco
from classification.detection.data.feed import Feed
from classification.detection.distillation import DISTILLATIONS
from classification.detection.evaluation import detect_all, evaluate_run, measure
from classification.detection.learner import Learner
from classification.detection.network.build import load_detector
from classification.detection.network.vidt import Tokens
from classification.detection.run import Run, read_detector
from classification.detection.settings import DistillationSettings, load_settings
from classification.detection.training import train
from tests.classification.detection.conftest import MakeDetection
from tests.classification.detection.test_distillation import drawn
from tests.processes import on_ranks

METHODS = ["vkd", "token_matching"]
TRAINED = {
    "vkd": ("vkd", "distill.padding=left_out"),
    "counted": ("vkd", "distill.padding=counted", "distill.projection=householder"),
    "token_matching": ("token_matching",),
}


def _found(run: str) -> tuple[list[Any], dict[str, Any]]:
    """Returns detections and measures of the run's detector on images of different sizes."""
    detector, _ = read_detector(Path(run))
    settings = load_settings(Path(run), ["evaluate.batch_size=2"])
    coco = Coco(Path(settings.data.root), "made")
    rows, seen, faults = detect_all(detector, settings, coco, "cpu")
    assert not faults
    assert sorted(seen) == list(range(1, 7))
    return rows.tolist(), measure(detector, settings, coco, "cpu")


def _gradients(rank: int, world: int) -> dict[str, list[float]]:
    """Returns the gradient of each method with respect to a common scale, from this rank's rows."""
    torch.manual_seed(0)
    found = {}
    for method in METHODS:
        settings = DistillationSettings(method=method)  # type: ignore[arg-type]
        distill = DISTILLATIONS[method](settings, 6, 6)
        whole = [drawn(6, 1, images=4, padded=True), drawn(6, 2, images=4, padded=True)]
        part = slice(rank * 4 // world, (rank + 1) * 4 // world)
        student, teacher = (
            Tokens([x[part] for x in t.patches], [p[part] for p in t.paddings], t.body[part],
                   t.neck[:, part])
            for t in whole
        )  # fmt: skip
        scale = torch.ones(6, requires_grad=True)
        student = student._replace(
            body=student.body * scale, patches=[x * scale[:, None, None] for x in student.patches]
        )
        sum(distill(student, teacher).values()).backward()
        assert scale.grad is not None
        found[method] = scale.grad.tolist()
    return found


def _trained(settings: str) -> list[dict[str, float]]:
    """Returns the losses of five updates in float64, so that rounding stays small."""
    loaded = load_settings(Path(settings))
    coco = Coco(Path(loaded.data.root), "made")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        feed = Feed(loaded, coco, "cpu")
        assert loaded.teacher is not None
        detector, teacher = (load_detector(x, 4).double() for x in (loaded.student, loaded.teacher))
        learner = Learner(loaded, detector, teacher, feed.per_epoch, "cpu")

        def doubled(number: int) -> Any:
            batch = feed(number)
            return batch._replace(images=batch.images.double())

        logged = [learner.step(doubled(i), i) for i in range(5)]
        return [{name: float(value) for name, value in step.items()} for step in logged]
    finally:
        torch.set_default_dtype(torch.float32)


def _on_a_rank(
    rank: int, world: int, run: str, files: dict[str, str], meet: str, queue: Any
) -> None:
    torch.distributed.init_process_group("gloo", f"file://{meet}", rank=rank, world_size=world)
    trained = {method: _trained(file) for method, file in files.items()}
    queue.put((rank, (_found(run), _gradients(rank, world), trained)))
    torch.distributed.destroy_process_group()


def test_two_ranks_evaluate_distil_and_train_as_one(
    tiny_detection: MakeDetection, tmp_path: Path
) -> None:
    settings, run = tiny_detection("train.epochs=3", arm="plain"), tmp_path / "run"
    train(settings, run)
    measured = evaluate_run(run, settings)
    assert Run(run).records("evaluations")[-1]["AP"] == measured["AP"]
    alone = _found(str(run))
    files = {}
    for name, (method, *overrides) in TRAINED.items():
        files[name] = str(tmp_path / f"{name}.yaml")
        shared = tiny_detection(
            "student.dropout=0", "train.batch_size=4", "train.epochs=6", "train.lr=1e-3",
            "train.padded_to=update",
            "augment={scales: [48, 64], longest: 80, crop_scales: [64], crop_sizes: [32, 48]}",
            *overrides, arm=method,
        )  # fmt: skip
        Path(files[name]).write_text(shared.dump())

    found = on_ranks(2, _on_a_rank, str(run), files, str(tmp_path / "meet"))
    for result, _, _ in found.values():
        assert result == alone

    def mean(a: Any, b: Any) -> Any:
        return pytest.approx((a + b) / 2, rel=1e-5, abs=1e-6)

    for method, gradient in _gradients(0, 1).items():
        parts = (found[rank][1][method] for rank in (0, 1))
        assert gradient == [mean(a, b) for a, b in zip(*parts, strict=True)]
    for name, file in files.items():
        parts = (found[rank][2][name] for rank in (0, 1))
        for alone, first, second in zip(_trained(file), *parts, strict=True):
            assert alone == {key: mean(first[key], second[key]) for key in alone}, name
