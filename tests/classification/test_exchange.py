"""Export of students to timm, torch.hub and onnxruntime."""

import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from classification.cli import main
from classification.recognition.exchange import export_student
from classification.recognition.hub import PretrainedStudent
from classification.recognition.network.students import build_student
from classification.recognition.run import Run, read_student
from classification.recognition.settings import facts_of
from classification.recognition.training import train
from gan_vkd.runtime.checkpoint import save_weights
from gan_vkd.runtime.errors import SettingsError, VkdError
from tests.classification.conftest import MakeStudent
from tests.processes import called

ROOT = Path(__file__).resolve().parents[2]
NAMES = [str(number) for number in range(10)]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def run(tiny: MakeStudent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exchange") / "run"
    train(tiny("train.epochs=1"), folder)
    return folder


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@torch.no_grad()
def test_timm_loads_an_export(suffix: str, run: Path, tmp_path: Path, images: torch.Tensor) -> None:
    out = tmp_path / f"student.{suffix}"
    message = export_student(run, out)
    call = message.partition(": ")[2]
    assert call.startswith("timm.create_model('deit_tiny_distilled_patch16_224', checkpoint_path=")
    network = eval(call, {"timm": timm}).eval()
    torch.testing.assert_close(network(images), read_student(run)[0](images))


def test_a_student_without_tokens_is_exported_as_a_timm_model(
    tiny: MakeStudent, tmp_path: Path
) -> None:
    settings = tiny(
        "student.name=resnet10t", "student.options={}", "student.drop_path=0", arm="cit"
    )
    student = build_student(settings.student, 10, 2)
    run = Run(tmp_path / "run")
    run.export(student, facts_of(settings, NAMES, len(student.distilled_heads)))
    message = export_student(run.path, tmp_path / "student.pth")
    assert message.partition(": ")[2].startswith("timm.create_model('resnet10t', checkpoint_path=")


@torch.no_grad()
def test_torch_hub_loads_an_export(run: Path, tmp_path: Path, images: torch.Tensor) -> None:
    export_student(run, tmp_path / "student.safetensors")
    network = torch.hub.load(
        str(ROOT), "student", str(tmp_path / "student.safetensors"), source="local"
    )
    assert torch.equal(network(images), read_student(run)[0](images))
    assert network.facts["resolution"] == 32


def test_onnxruntime_gives_the_same_logits(run: Path, tmp_path: Path, images: torch.Tensor) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "student.onnx"
    assert "of torch's" in export_student(run, out)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"images": images.numpy()})[0]
    with torch.no_grad():
        ours = read_student(run)[0](images).numpy()
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_the_export_of_two_tokens_says_that_timm_has_no_model(
    tiny: MakeStudent, tmp_path: Path
) -> None:
    settings = tiny(arm="cit")
    student = build_student(settings.student, 10, 2)
    Run(tmp_path / "run").export(student, facts_of(settings, NAMES, len(student.distilled_heads)))
    assert "timm has no model with" in export_student(tmp_path / "run", tmp_path / "x.pth")


def test_another_suffix_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\.safetensors, \.pth, \.pth\.tar or \.onnx"):
        export_student(run, tmp_path / "student.pt2")


def test_a_missing_onnxruntime_is_an_error_that_says_what_to_install(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(VkdError, match="pip install onnx onnxruntime onnxscript"):
        export_student(run, tmp_path / "student.onnx")
    assert not (tmp_path / "student.onnx").exists()


def test_a_student_that_is_not_finite_is_refused(run: Path, tmp_path: Path) -> None:
    student, facts = read_student(run)
    file = tmp_path / "student.safetensors"
    student.network.cls_token.view(-1)[0] = float("nan")
    save_weights(file, student.network.state_dict(), facts)
    with pytest.raises(VkdError, match=r"student\.safetensors: cls_token is not finite"):
        read_student(file)


def test_a_damaged_student_is_refused(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "student.safetensors"
    data = bytearray(Run(run).student_file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(VkdError, match="its checksum does not match"):
        read_student(file)
    file.write_bytes(data[:100])
    with pytest.raises(VkdError, match="damaged, or not a file of this project"):
        read_student(file)


@torch.no_grad()
def test_a_student_is_saved_for_the_hub_and_loaded(
    run: Path, tmp_path: Path, images: torch.Tensor
) -> None:
    done = called(main, "export", run, tmp_path / "out", "--hub")
    assert "hf upload" in done.stdout, done.stderr
    loaded = PretrainedStudent.from_pretrained(tmp_path / "out")
    student, facts = read_student(run)
    assert torch.equal(loaded(images), student(images))
    assert loaded.facts == facts
    text = (tmp_path / "out" / "README.md").read_text()
    assert "top-1 on held-out images" in text
    assert f"{facts['top1']:.2f}%" in text
    assert str(run.parent) not in text
