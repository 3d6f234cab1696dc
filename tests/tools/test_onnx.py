"""Generators as ONNX models: the same images as torch's, in batches of any size."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gan_vkd.networks.interface import NETWORKS
from gan_vkd.networks.onnx import to_onnx
from gan_vkd.run import Run
from gan_vkd.runtime.errors import VkdError
from gan_vkd.tools.inputs import inputs_of, load
from tests.tools.conftest import NAMES, Vkd


@pytest.mark.parametrize("name", ["stylegan2", "biggan"])
def test_onnxruntime_makes_the_same_images(
    name: str, runs: dict[str, Path], vkd: Vkd, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "g.onnx"
    line = vkd("export", runs[name], out)
    assert line.startswith(f"{out}: images within ")
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert f"{float(facts['largest_difference']):.1e}" in line
    assert json.loads(facts["facts"])["names"] == NAMES
    generator, _ = load(runs[name], "cpu")
    for count, psi in ((1, 1.0), (4, 0.5)):
        z, labels = inputs_of(generator, [0.2, 0.3, 0.5], range(count))
        given = {"z": z.numpy(), "labels": labels.numpy()}
        if name == "stylegan2":
            given["truncation"] = np.array(psi, np.float32)
            generator.truncate(psi)
        (theirs,) = session.run(None, given)
        with torch.no_grad():
            ours = generator(z, labels).clamp(-1, 1)
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4)
        assert theirs.shape == (count, 3, 32, 32)


def test_an_unconditional_generator_has_no_labels(
    stylegan2: Path, vkd: Vkd, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    settings, run = Run(stylegan2).settings(), Run(tmp_path / "run")
    run.write_settings(settings.dump())
    generator = NETWORKS.make(settings.model.chosen).generator(settings.data.shape, 0)
    run.export(generator, {"iteration": 1, "shares": [1.0]})
    vkd("export", run.path, tmp_path / "g.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["z", "truncation"]
    assert session.get_outputs()[0].shape == ["batch", 3, 32, 32]


class Differs(torch.nn.Module):
    """Other values wherever it is not being exported."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if torch.compiler.is_exporting() else 1.1 * x


def test_a_model_that_differs_is_not_written(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(VkdError, match=r"not written, its images differ by 9.1e-02 from torch's"):
        to_onnx(Differs(), [{"x": torch.ones(2, 3)}], "images", {}, tmp_path / "g.onnx")


class Unexportable(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(x.sum())


def test_a_network_that_cannot_be_exported_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(VkdError, match="g.onnx: torch cannot export this network") as caught:
        to_onnx(Unexportable(), [{"x": torch.ones(2, 3)}], "images", {}, tmp_path / "g.onnx")
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_onnxruntime_is_one_line_with_the_command(
    monkeypatch: pytest.MonkeyPatch, biggan: Path, vkd: Vkd, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    message = vkd("export", biggan, tmp_path / "g.onnx", code=1)
    assert "pip install onnx onnxruntime onnxscript" in message
    assert not (tmp_path / "g.onnx").exists()
