"""Generators as ONNX models: the same images as torch's, in batches of any size."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gan_vkd.networks.interface import NETWORKS
from gan_vkd.networks.onnx import to_onnx
from gan_vkd.run import Run
from gan_vkd.runtime.errors import VkdError
from gan_vkd.tools.inputs import inputs_of, load
from tests.tools.conftest import NAMES, Vkd


def test_onnxruntime_makes_the_images_of_stylegan2(
    stylegan2: Path, vkd: Vkd, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "g.onnx"
    line = vkd("export", stylegan2, out)
    assert line.startswith(f"{out}: images within ")
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert f"{float(facts['largest_difference']):.1e}" in line
    assert json.loads(facts["facts"])["names"] == NAMES
    generator, _ = load(stylegan2, "cpu")
    for count, psi in ((1, 1.0), (4, 0.5)):
        z, labels = inputs_of(generator, [0.2, 0.3, 0.5], range(count))
        given = {"z": z.numpy(), "labels": labels.numpy(), "truncation": np.array(psi, np.float32)}
        generator.truncate(psi)
        assert_same(session, given, generator(z, labels))


def test_onnxruntime_makes_the_images_of_an_unconditional_biggan(
    biggan: Path, vkd: Vkd, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    settings, run = Run(biggan).settings(), Run(tmp_path / "run")
    run.write_settings(settings.dump())
    generator = NETWORKS.make(settings.model.chosen).generator(settings.data.shape, 0).eval()
    for value in generator.parameters():
        value.data.mul_(6)
    run.export(generator, {"iteration": 1, "shares": [1.0]})
    vkd("export", run.path, tmp_path / "g.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    z = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_same(session, {"z": z.numpy()}, generator(z, torch.zeros(3, dtype=torch.int64)))


def assert_same(session: Any, given: dict[str, np.ndarray], ours: torch.Tensor) -> None:
    (theirs,) = session.run(None, given)
    assert theirs.shape == (len(given["z"]), 3, 32, 32)
    assert theirs.std() > 0.05
    np.testing.assert_allclose(theirs, ours.clamp(-1, 1).numpy(), atol=1e-4)


class Differs(torch.nn.Module):
    """Other values wherever it is not being exported."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if torch.compiler.is_exporting() else 1.1 * x


def test_a_model_that_differs_is_not_written(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(VkdError, match=r"not written, its images differ by 9.1e-02 from torch's"):
        to_onnx(Differs(), [{"x": torch.ones(2, 3)}], "images", {}, tmp_path / "g.onnx")


def test_a_network_that_cannot_be_exported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")

    def export(*_: Any, **__: Any) -> None:
        raise torch.onnx.OnnxExporterError("no such\noperator")

    monkeypatch.setattr(torch.onnx, "export", export)
    expected = r"g\.onnx: torch cannot export this network \(no such operator\)$"
    with pytest.raises(VkdError, match=expected):
        to_onnx(Differs(), [{"x": torch.ones(2, 3)}], "images", {}, tmp_path / "g.onnx")


def test_a_missing_onnxruntime_is_one_line_with_the_command(
    monkeypatch: pytest.MonkeyPatch, biggan: Path, vkd: Vkd, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    message = vkd("export", biggan, tmp_path / "g.onnx", code=1)
    assert "pip install onnx onnxruntime onnxscript" in message
    assert not (tmp_path / "g.onnx").exists()
