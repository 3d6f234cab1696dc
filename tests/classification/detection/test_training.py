"""From settings to a detector: it learns, is resumed bit for bit, and ranks train as one."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from classification.detection.build import load_detector, make_detector
from classification.detection.coco import Coco
from classification.detection.config import DetectorSettings, load_settings
from classification.detection.data import Feed
from classification.detection.learner import Learner
from classification.detection.predict import predict
from classification.detection.published import to_published
from classification.detection.run import Run, export_detector, read_detector
from classification.detection.training import train
from classification.detection.vidt import ViDT
from gan_vkd import devices
from gan_vkd.errors import SettingsError, VkdError
from tests.classification.detection.conftest import CONFIGS, MakeDetection, write_coco
from tests.states import assert_identical

ARMS = ["plain", "vkd", "token_matching"]
SMALL = {"size": "nano", "queries": 6, "width": 32, "layers": 2, "hidden": 32}


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_and_leaves_its_detector(
    arm: str, tiny_detection: MakeDetection, tmp_path: Path
) -> None:
    settings = tiny_detection("train.epochs=1", arm=arm)
    train(settings, tmp_path / "run")
    records = Run(tmp_path / "run").records("metrics")
    assert len([r for r in records if "class_loss" in r]) == 3
    terms = {"plain": set(), "vkd": {"patch_loss", "body_loss", "neck_loss"},
             "token_matching": {"token_loss"}}[arm]  # fmt: skip
    assert {key for key in records[0] if key.endswith("_loss")} == terms | {
        "class_loss", "box_loss", "giou_loss",
    }  # fmt: skip
    assert "AP50" in records[-1]
    _, facts = read_detector(tmp_path / "run")
    assert facts["categories"] == {"1": "red", "3": "blue"}
    assert facts["classes"] == 4


def test_it_learns_what_it_sees(tiny_detection: MakeDetection) -> None:
    settings = tiny_detection(
        "train.epochs=40", "train.lr=8e-3", "student.dropout=0",
        "augment={scales: [64], longest: 64, flip: 0, crop_scales: []}", arm="plain",
    )  # fmt: skip
    coco = Coco(Path(settings.data.root), "made")
    torch.manual_seed(0)
    feed = Feed(settings, coco, "cpu")
    learner = Learner(settings, make_detector(settings.student, 4), None, feed.per_epoch, "cpu")
    told = [learner.step(feed(i), i) for i in range(60)]
    losses = [float(sum(x for name, x in t.items() if "loss" in name)) for t in told]
    assert sum(losses[-6:]) < 0.5 * sum(losses[:6])


def test_a_stopped_run_goes_on_bit_for_bit(tiny_detection: MakeDetection, tmp_path: Path) -> None:
    settings = tiny_detection("train.epochs=3", "train.accumulate=1", "seed=3")
    train(settings, tmp_path / "whole")
    step = Learner.step

    def dying(self: Learner, batch: Any, now: int) -> Any:
        if now == 5:
            raise ZeroDivisionError
        return step(self, batch, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", dying)
        with pytest.raises(ZeroDivisionError):
            train(settings, tmp_path / "stopped")
    train(settings, tmp_path / "stopped", resume=True)
    assert_identical(tmp_path / "whole", tmp_path / "stopped")


def test_weights_of_all_kinds_fill_what_they_have(tmp_path: Path) -> None:
    settings = DetectorSettings(**SMALL)
    torch.manual_seed(1)
    theirs = make_detector(settings, 4)
    published = tmp_path / "vidt.pth"
    saved = {"model": to_published(theirs.state_dict()), "args": argparse.Namespace(lr=1e-4)}
    torch.save(saved, published)
    for weights in (published, _as_run(theirs, tmp_path)):
        loaded = load_detector(settings.model_copy(update={"weights": str(weights)}), 4)
        for name, value in theirs.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name])
    swin = {
        name.removeprefix("backbone."): value
        for name, value in saved["model"].items()
        if name.startswith("backbone.") and "det_" not in name and "layers.3.down" not in name
        and "norm2" not in name.split("downsample.")[-1] and "expansion" not in name
        and not name.startswith("backbone.norm")
    }  # fmt: skip
    swin |= {f"layers.{i}.blocks.{j}.norm2.{part}": saved["model"][
        f"backbone.layers.{i}.blocks.{j}.norm2.{part}"]
        for i, depth in enumerate((2, 2, 6, 2)) for j in range(depth) for part in ("weight", "bias")
    }  # fmt: skip
    torch.save({"model": swin | {"norm.weight": torch.ones(384)}}, tmp_path / "swin.pth")
    loaded = load_detector(settings.model_copy(update={"weights": str(tmp_path / "swin.pth")}), 4)
    assert torch.equal(
        loaded.body.stages[2].blocks[5].mlp.fc1.weight,
        theirs.body.stages[2].blocks[5].mlp.fc1.weight,
    )
    assert not torch.equal(loaded.body.det_token, theirs.body.det_token)


def test_weights_of_other_classes_begin_a_student_and_a_teacher_keeps_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = DetectorSettings(**SMALL)
    theirs, file = make_detector(settings, 7).state_dict(), tmp_path / "other.pth"
    torch.save({"model": to_published(theirs)}, file)
    named = settings.model_copy(update={"weights": str(file)})
    student = load_detector(named, 4).state_dict()
    assert (
        "other.pth: is of 7 classes; the class heads begin anew, with 4" in capsys.readouterr().out
    )
    for name, value in theirs.items():
        if name.startswith("class_heads."):
            assert len(student[name]) == 4
        else:
            assert torch.equal(value, student[name])
    for name, value in load_detector(named, 4, teacher=True).state_dict().items():
        assert torch.equal(value, theirs[name])
    assert not capsys.readouterr().out


def _as_run(detector: ViDT, tmp_path: Path) -> Path:
    run = Run(tmp_path / "as_run")
    facts = {"detector": SMALL | {"dropout": 0.1}, "classes": 4, "categories": {}}
    run.export(detector, facts)
    return run.path


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    settings = DetectorSettings(**SMALL)
    file = tmp_path / "other.pth"
    wider = make_detector(settings.model_copy(update={"hidden": 2 * settings.hidden}), 4)
    torch.save(to_published(wider.state_dict()), file)
    with pytest.raises(VkdError, match=r"other.pth: weights of another network") as caught:
        load_detector(settings.model_copy(update={"weights": str(file)}), 4)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(VkdError, match="no such file"):
        load_detector(settings.model_copy(update={"weights": str(tmp_path / "none.pth")}), 4)
    for odd in ({0: torch.ones(1)}, {"model": 3}, {"model": [1]}, {"state_dict": {"a": 1}}):
        torch.save(odd, file)
        with pytest.raises(VkdError, match=r"other.pth: .*weights"):
            load_detector(settings.model_copy(update={"weights": str(file)}), 4)
    torch.save({"patch_embed.norm.weight": torch.ones(48)}, file)
    with pytest.raises(VkdError, match="a body without a neck cannot teach"):
        load_detector(settings.model_copy(update={"weights": str(file)}), 4, teacher=True)


def test_a_damaged_detector_teaches_nothing(tmp_path: Path) -> None:
    folder = _as_run(make_detector(DetectorSettings(**SMALL), 4), tmp_path)
    file = folder / "detector.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    settings = DetectorSettings(**SMALL, weights=str(folder))
    with pytest.raises(VkdError, match="its checksum does not match"):
        load_detector(settings, 4, teacher=True)


@pytest.mark.parametrize("projection", ["orthogonal", "linear", "mlp"])
def test_bfloat16_leaves_boxes_and_distillation_in_float32(
    projection: str, tiny_detection: MakeDetection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_is_lowered", lambda kind: True)
    settings = tiny_detection(
        "train.precision=bfloat16", "train.teacher_precision=bfloat16",
        f"distill.projection={projection}",
    )  # fmt: skip
    coco = Coco(Path(settings.data.root), "made")
    feed = Feed(settings, coco, "cpu")
    detector, teacher = (load_detector(x, 4) for x in (settings.student, settings.teacher))
    learner = Learner(settings, detector, teacher, feed.per_epoch, "cpu")
    batch = feed(0)
    with torch.autocast("cpu", torch.bfloat16):
        said = detector(batch.images, batch.padding)
    assert said.boxes.dtype == torch.float32
    losses = learner.step(feed(0), 0)
    assert all(loss.isfinite() for loss in losses.values())


def test_a_run_without_heldout_images_still_leaves_its_detector(
    tiny_detection: MakeDetection, tmp_path: Path
) -> None:
    train(tiny_detection("data.heldout=null", "train.epochs=1", arm="plain"), tmp_path / "run")
    assert read_detector(tmp_path / "run")[1]["classes"] == 4
    root = write_coco(tmp_path / "empty", lambda tree: tree.update(annotations=[]))
    with pytest.raises(SettingsError, match="nothing is to be found in it"):
        train(tiny_detection(f"data.root={root}", arm="plain"), tmp_path / "other")


def test_export_and_predict(tiny_detection: MakeDetection, tmp_path: Path) -> None:
    settings = tiny_detection("train.epochs=1", arm="plain")
    train(settings, tmp_path / "run")
    exported = tmp_path / "detector.safetensors"
    assert export_detector(tmp_path / "run", exported).startswith(str(exported))
    export_detector(tmp_path / "run", tmp_path / "detector.pth")
    saved = torch.load(tmp_path / "detector.pth", weights_only=True)["model"]
    assert "backbone.layers.0.blocks.0.attn.relative_position_index" in saved
    with pytest.raises(SettingsError, match=r"ends in .safetensors or .pth"):
        export_detector(tmp_path / "run", tmp_path / "detector.onnx")

    images = Path(settings.data.root) / "made"
    written = predict(exported, [images, images / "001.png"], tmp_path / "out", 0.0, "cpu")
    names = [file.name for file in written]
    assert names == [*(f"00{i}.png" for i in range(1, 7)), "001_7.png", "detections.json"]
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {record["image_id"] for record in found} == {1, 2, 3, 4, 5, 6, 7}
    for record in found:
        x, y, w, h = record["bbox"]
        assert 0 <= x <= x + w <= 64.01
        assert 0 <= y <= y + h <= 64.01
    numbers = [images / "003.png", images / "005.png"]
    predict(exported, numbers, tmp_path / "out", 0.0, "cpu")
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {record["image_id"] for record in found} == {3, 5}

    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.new("RGB", (1, 2000)).save(tmp_path / "thin.png")
    Image.new("RGB", (200, 5)).save(tmp_path / "strip.png")
    pictures = [tmp_path / f"{name}.png" for name in ("bad", "none", "thin", "strip")]
    with pytest.raises(VkdError) as caught:
        predict(exported, pictures, tmp_path / "out", 0.5, "cpu")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("bad.png: not an image")
    assert lines[1].endswith("none.png: No such file or directory")
    assert "thin.png: 1x2000 pixels: more than 50 times as long as wide" in lines[2]
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {record["file_name"] for record in found} == {"strip.png"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["teacher.weights=null"], "the teacher has no weights"),
        (["student.queries=5"], "queries must be equal"),
        (["student.layers=1"], "layers must be equal"),
        (["distill=null"], "distill and teacher belong together"),
        (["student.width=40"], "multiple of 16"),
        (["distill.method=token_matching", "distill.projection=linear"], "belongs to method = vkd"),
        (["distill.patches=0", "distill.body=0", "distill.neck=0"], "nothing is taught"),
        (["augment.crop_sizes=[100, 50]"], "the smaller side comes first"),
        (["train.cooldown_epochs=2"], "cooldown_epochs must be fewer"),
        (["data.std=[0, 1, 1]"], "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_together(
    overrides: list[str], said: str, tiny_detection: MakeDetection
) -> None:
    with pytest.raises(SettingsError, match=said):
        tiny_detection(*overrides)


def test_what_does_not_fit_the_data_is_one_line(
    tiny_detection: MakeDetection, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"data.classes = 3: the largest category is 3"):
        train(tiny_detection("data.classes=3", arm="plain"), tmp_path / "a")
    with pytest.raises(SettingsError, match=r"train.batch_size: 50 images"):
        train(tiny_detection("train.batch_size=50", arm="plain"), tmp_path / "b")
    with pytest.raises(SettingsError, match=r"distill: token matching needs equal widths"):
        train(tiny_detection("student.width=48", arm="token_matching"), tmp_path / "c")
    with pytest.raises(VkdError, match=r"not finite .*a smaller train.lr"):
        train(tiny_detection("train.lr=1e30", arm="plain"), tmp_path / "d")


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("coco_*.yaml")), ids=lambda path: path.stem)
def test_every_settings_file_is_valid(config: Path) -> None:
    settings = load_settings(config)
    assert settings.student.size in config.stem
    assert (settings.teacher is not None) == config.stem.endswith(("_vkd", "_token_matching"))
