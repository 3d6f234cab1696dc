"""Files of detectors: the published layouts, made from names and shapes, measure and predict."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classification.detection.cli import main
from classification.detection.network.build import load_detector, make_detector
from classification.detection.network.published import describe, from_published, to_published
from classification.detection.network.swin import relative_position_index
from classification.detection.network.vidt import ViDT
from classification.detection.run import coco_categories, read_detector
from classification.detection.settings import DetectorSettings
from gan_vkd.runtime.errors import VkdError
from tests.processes import called
from tests.real_data import SHARED, needs_shared

SMALL = {"size": "nano", "queries": 6, "width": 32, "layers": 2, "hidden": 48, "drop_path": None}


def drawn(classes: int = 4) -> ViDT:
    torch.manual_seed(5)
    detector = make_detector(DetectorSettings(**SMALL), classes).eval()  # type: ignore[arg-type]
    state = {name: x + torch.randn_like(x) / 20 for name, x in detector.state_dict().items()}
    detector.load_state_dict(state)
    return detector


def with_projections(state: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    """The weights as VkD's training saves them: its six projections beside the student."""
    names = [*(f"patch_projector_{i}" for i in (1, 2, 3, 4)), "neck_det_projector",
             "body_det_projector"]  # fmt: skip
    for name in names:
        linear = nn.utils.parametrizations.orthogonal(nn.Linear(width, width, bias=False))
        state |= {f"{name}.projector.{key}": value for key, value in linear.state_dict().items()}
        state |= {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
    return state


@pytest.mark.parametrize("beside", [False, True])
def test_published_files_give_the_outputs_of_their_model(beside: bool, tmp_path: Path) -> None:
    theirs = drawn()
    state = to_published(theirs.state_dict())
    state = with_projections(state, 32) if beside else state
    saved = {"model": state, "args": argparse.Namespace(lr=1e-4), "epoch": 49, "optimizer": {}}
    torch.save(saved, tmp_path / "checkpoint.pth")
    ours, facts = read_detector(tmp_path / "checkpoint.pth")
    images, padding = torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, :, 70:] = True
    for found, expected in zip(ours(images, padding)[:2], theirs(images, padding)[:2], strict=True):
        torch.testing.assert_close(found, expected)
    assert facts["detector"] | SMALL == facts["detector"]
    assert (facts["classes"], facts["categories"], facts["numbered"]) == (4, {}, True)
    settings = DetectorSettings(**SMALL, weights=str(tmp_path / "checkpoint.pth"))  # type: ignore
    for teacher in (False, True):
        loaded = load_detector(settings, 4, teacher)
        for name, value in theirs.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name])


@needs_shared
@pytest.mark.parametrize("size", ["nano", "tiny", "small", "base"])
def test_the_size_of_a_published_checkpoint_is_read_off_its_names(size: str) -> None:
    name = "base_win7_22k" if size == "base" else size
    listed = json.loads((SHARED / "reference" / f"vidt_swin_{name}.json").read_text())
    theirs = {key: torch.empty(shape, device="meta") for key, shape in listed.items()}
    ours = from_published(with_projections(theirs, 256))
    assert describe(ours, "x") == (DetectorSettings(size=size), 91)  # type: ignore[arg-type]
    with torch.device("meta"):
        ViDT(size).load_state_dict(ours, assign=True)


@needs_shared
def test_a_published_checkpoint_measures_predicts_and_is_exported(
    made: Path, tmp_path: Path
) -> None:
    listed = json.loads((SHARED / "reference" / "vidt_swin_nano.json").read_text())
    torch.manual_seed(2)
    theirs = {key: torch.randn(shape) / 20 for key, shape in listed.items()}
    theirs |= {k: relative_position_index() for k in theirs if k.endswith("_position_index")}
    file = tmp_path / "vidt_nano_50.pth"
    torch.save({"model": with_projections(theirs, 256)}, file)
    data = [f"data.root={made}", "data.heldout=made", "data.workers=0", "evaluate.scale=64"]
    measured = called(main, "evaluate", file, *data)
    assert measured.returncode == 0, measured.stderr
    assert "AP50: " in measured.stdout
    found = called(main, "predict", file, made / "made" / "001.png", "--out", tmp_path / "found")
    assert found.returncode == 0, found.stderr
    assert len(json.loads((tmp_path / "found" / "detections.json").read_text())) == 100
    exported = called(main, "export", file, tmp_path / "ours.safetensors")
    assert "a ViDT nano with 91 classes" in exported.stdout
    facts = read_detector(tmp_path / "ours.safetensors")[1]
    assert facts["categories"]["90"] == "toothbrush"
    again = called(main, "evaluate", tmp_path / "ours.safetensors", *data)
    assert again.stdout == measured.stdout


def test_coco_has_eighty_categories() -> None:
    names = coco_categories()
    assert len(names) == 80
    assert (names[1], names[17], names[90]) == ("person", "cat", "toothbrush")


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"backbone.det_token": torch.ones(1)}, "not a whole ViDT by its names and shapes"),
    ({"patch_embed.proj.weight": torch.ones(1)}, "not a whole ViDT"),
    ({"model": {"a": 3}}, "not a network's weights"),
]


@pytest.mark.parametrize(("saved", "fault"), FAULTS)
def test_other_files_are_one_line(saved: dict[str, Any], fault: str, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "odd.pth")
    with pytest.raises(VkdError, match=rf"odd\.pth: {fault}") as caught:
        read_detector(tmp_path / "odd.pth")
    assert len(str(caught.value).splitlines()) == 1


def test_a_body_of_no_known_size_is_refused(tmp_path: Path) -> None:
    state = to_published(drawn().state_dict())
    without = {k: x for k, x in state.items() if not k.startswith("backbone.layers.2.blocks.5.")}
    torch.save(without, tmp_path / "odd.pth")
    with pytest.raises(VkdError, match=r"48 channels and \(2, 2, 5, 2\) blocks; known: nano, tiny"):
        read_detector(tmp_path / "odd.pth")


def test_categories_beyond_a_files_classes_are_refused(made: Path, tmp_path: Path) -> None:
    torch.save(to_published(drawn(classes=3).state_dict()), tmp_path / "three.pth")
    ended = called(
        main, "evaluate", tmp_path / "three.pth", f"data.root={made}", "data.heldout=made"
    )
    assert "has category 3, but" in ended.stderr
    assert "three.pth predicts numbers below 3" in ended.stderr
