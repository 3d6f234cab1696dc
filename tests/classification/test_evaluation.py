"""Top-1 and top-5 are those of timm, on one rank and on two."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from timm.utils import accuracy

from classification.recognition.data.images import load_heldout_images
from classification.recognition.evaluation import evaluate_run, measure
from classification.recognition.network.students import build_student
from classification.recognition.run import Run, read_student
from classification.recognition.settings import ClassifierSettings
from classification.recognition.training import train
from gan_vkd.runtime import ranks
from gan_vkd.runtime.errors import SettingsError
from tests.classification.conftest import MakeStudent
from tests.processes import on_ranks


def test_accuracy_is_that_of_timm(tiny: MakeStudent) -> None:
    settings = tiny("evaluate.batch_size=64")
    heldout = load_heldout_images(settings.data, None)
    assert heldout is not None
    torch.manual_seed(0)
    student = build_student(settings.student, 10, 1).eval()
    result = measure(student, settings, heldout, "cpu")
    images = heldout.pixels.float() / 255  # type: ignore[attr-defined]
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (settings.data.mean, settings.data.std))
    with torch.no_grad():
        logits = student((images - mean) / std)
    first, among = accuracy(logits, heldout.labels, (1, 5))
    assert result["top1"] == pytest.approx(float(first), abs=1e-4)
    assert result["top5"] == pytest.approx(float(among), abs=1e-4)
    assert result["images"] == len(heldout.labels)


def _measured_on(rank: int, world: int, folder: str, text: str, file: str, queue: Any) -> None:
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=world)
    settings = ClassifierSettings.model_validate(yaml.safe_load(text))
    student, facts = read_student(Path(folder))
    heldout = load_heldout_images(settings.data, facts["classes"])
    assert heldout is not None
    part = ranks.own_part(len(heldout.labels))
    result = measure(student, settings, heldout, "cpu")
    queue.put((rank, (part.stop - part.start, result)))
    torch.distributed.destroy_process_group()


def test_two_ranks_evaluate_as_one(tiny: MakeStudent, tmp_path: Path) -> None:
    settings = tiny()
    train(settings, tmp_path / "run")
    alone = evaluate_run(tmp_path / "run", settings)
    found = on_ranks(
        2, _measured_on, str(tmp_path / "run"), settings.dump(), str(tmp_path / "meet")
    )
    for _, result in found.values():
        assert result == {key: alone[key] for key in result}
    assert found[0][0] + found[1][0] == alone["images"]
    assert found[0][0] != found[1][0]  # 297 images: one rank has one more
    record = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text())
    assert record["top1"] == alone["top1"]


def test_a_run_without_a_heldout_set_writes_its_student(tiny: MakeStudent, tmp_path: Path) -> None:
    settings = tiny("data.heldout=null", "train.epochs=1", arm="plain")
    train(settings, tmp_path / "run")
    assert read_student(tmp_path / "run")[1]["tokens"] == 0
    with pytest.raises(SettingsError, match="no images to measure on"):
        evaluate_run(tmp_path / "run", settings)


def test_the_ema_is_evaluated_and_written(tiny: MakeStudent, tmp_path: Path) -> None:
    settings = tiny("train.epochs=2", "train.ema_decay=0.9", "evaluate.every=2", arm="plain")
    train(settings, tmp_path / "run")
    student, _ = read_student(tmp_path / "run")
    state = Run(tmp_path / "run").latest_state()
    assert state is not None
    trained = state["trained"]
    for name, value in student.network.state_dict().items():
        assert torch.equal(value, trained["average"][name])
    assert not torch.equal(trained["average"]["head.weight"], trained["student"]["head.weight"])
