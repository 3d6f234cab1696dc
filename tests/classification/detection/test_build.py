"""Loading a detector from published weights, runs and Swin weights."""

import argparse
from pathlib import Path

import pytest
import timm
import torch
from timm.models.swin_transformer import checkpoint_filter_fn

from classification.detection.network.build import load_detector, make_detector
from classification.detection.network.published import to_published
from classification.detection.network.vidt import ViDT
from classification.detection.run import Run, read_detector
from classification.detection.settings import DetectorSettings
from gan_vkd.runtime.errors import VkdError

SMALL = {"size": "nano", "queries": 6, "width": 32, "layers": 2, "hidden": 32}


def test_weights_are_loaded_from_a_detector_a_run_and_a_swin(tmp_path: Path) -> None:
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


def test_a_student_reinitialises_class_heads_of_other_classes_and_a_teacher_keeps_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = DetectorSettings(**SMALL)
    theirs, file = make_detector(settings, 7).state_dict(), tmp_path / "other.pth"
    torch.save({"model": to_published(theirs)}, file)
    named = settings.model_copy(update={"weights": str(file)})
    student = load_detector(named, 4).state_dict()
    assert "other.pth: has 7 classes; the heads of 4 classes are init" in capsys.readouterr().out
    for name, value in theirs.items():
        if name.startswith("class_heads."):
            assert len(student[name]) == 4
        else:
            assert torch.equal(value, student[name])
    for name, value in load_detector(named, 4, teacher=True).state_dict().items():
        assert torch.equal(value, theirs[name])
    assert not capsys.readouterr().out


@pytest.mark.parametrize("window", [4, 8, 12])
def test_another_window_resizes_the_tables_of_positions_as_timm_does(
    window: int, tmp_path: Path
) -> None:
    settings, heads = DetectorSettings(**SMALL), (3, 6, 12, 24)
    options = {"img_size": 224, "embed_dim": 48, "num_classes": 4, "num_heads": heads}
    swin = timm.create_model("swin_tiny_patch4_window7_224", **options)
    torch.save(swin.state_dict(), tmp_path / "swin.pth")
    named = settings.model_copy(update={"weights": str(tmp_path / "swin.pth"), "window": window})
    body = load_detector(named, 4).body.state_dict()
    size = {"img_size": 32 * window, "window_size": window}
    other = timm.create_model("swin_tiny_patch4_window7_224", **options | size)
    theirs = checkpoint_filter_fn(swin.state_dict(), other)
    tables = {k: x for k, x in theirs.items() if k.endswith("relative_position_bias_table")}
    assert len(tables) == 12
    for name, table in tables.items():
        _, stage, _, block, *_ = name.split(".")
        ours = body[f"stages.{stage}.blocks.{block}.attention.position_bias"]
        assert len(ours) == (2 * window - 1) ** 2
        assert torch.equal(ours, table)

    # and back: the file of a detector says its window
    detector = load_detector(named, 4)
    torch.save({"model": to_published(detector.state_dict())}, tmp_path / "whole.pth")
    found, facts = read_detector(tmp_path / "whole.pth")
    assert facts["detector"]["window"] == window
    images, padding = torch.randn(1, 3, 70, 90), torch.zeros(1, 70, 90, dtype=torch.bool)
    with torch.no_grad():
        expected = detector.eval()(images, padding)
        torch.testing.assert_close(found(images, padding).boxes, expected.boxes)


def _as_run(detector: ViDT, tmp_path: Path) -> Path:
    run = Run(tmp_path / "as_run")
    facts = {
        "detector": SMALL | {"dropout": 0.1}, "classes": 4, "categories": {},
        "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "scale": 64, "longest": 96,
    }  # fmt: skip
    run.export(detector, facts)
    return run.path


def test_weights_that_do_not_fit_are_a_one_line_error(tmp_path: Path) -> None:
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
    scalar = to_published(make_detector(settings, 4).state_dict())
    scalar["class_embed.0.weight"] = torch.tensor(1.0)
    torch.save(scalar, file)
    with pytest.raises(VkdError, match=r"other.pth: weights of another network"):
        load_detector(settings.model_copy(update={"weights": str(file)}), 4)
    torch.save({"patch_embed.norm.weight": torch.ones(48)}, file)
    with pytest.raises(VkdError, match="has no neck, which a teacher needs"):
        load_detector(settings.model_copy(update={"weights": str(file)}), 4, teacher=True)


def test_a_damaged_teacher_is_refused(tmp_path: Path) -> None:
    folder = _as_run(make_detector(DetectorSettings(**SMALL), 4), tmp_path)
    file = folder / "detector.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    settings = DetectorSettings(**SMALL, weights=str(folder))
    with pytest.raises(VkdError, match="its checksum does not match"):
        load_detector(settings, 4, teacher=True)
