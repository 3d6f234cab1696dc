"""Export of detectors, and their predictions on images."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from classification.detection.predict import predict
from classification.detection.run import export_detector, read_detector
from classification.detection.training import train
from gan_vkd.runtime.checkpoint import save_weights
from gan_vkd.runtime.errors import SettingsError, VkdError
from tests.classification.detection.conftest import MakeDetection


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

    detector, facts = read_detector(exported)
    name, weight = next(iter(detector.state_dict().items()))
    weight.view(-1)[0] = float("nan")
    save_weights(tmp_path / "nan.safetensors", detector.state_dict(), facts)
    with pytest.raises(VkdError, match=rf"nan\.safetensors: {name} is not finite"):
        read_detector(tmp_path / "nan.safetensors")

    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.new("RGB", (1, 2000)).save(tmp_path / "thin.png")
    Image.new("RGB", (200, 5)).save(tmp_path / "strip.png")
    pictures = [tmp_path / f"{name}.png" for name in ("bad", "none", "thin", "strip")]
    with pytest.raises(VkdError) as caught:
        predict(exported, pictures, tmp_path / "out", 0.5, "cpu")
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("bad.png: not an image")
    assert lines[1].endswith("none.png: No such file or directory")
    assert "thin.png: 1x2000 pixels: one side is over 50 times the other" in lines[2]
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {record["file_name"] for record in found} == {"strip.png"}
