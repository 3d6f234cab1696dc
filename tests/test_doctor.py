"""`vkd doctor`: what is missing is named with its remedy, and only what is needed fails."""

import json
from pathlib import Path
from typing import Any

import pytest

from gan_vkd import doctor
from gan_vkd.doctor import Findings, examine
from gan_vkd.runtime.errors import VkdError

DISTRIBUTION = {
    "Requires-Dist": ["numpy>=1", 'lacking-one>=2; extra == "video"', 'numpy; extra == "onnx"'],
    "Provides-Extra": ["video", "onnx", "test"],
}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "_metadata", DISTRIBUTION.__getitem__)
    monkeypatch.setattr(doctor, "LEAST_DISK", 0.0)


def facts(capsys: pytest.CaptureFixture[str], network: bool = False) -> dict[str, Any]:
    said: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "result", lambda text, **found: said.update(found, text=text))
        examine(network)
    return said


def test_a_healthy_machine(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys)
    assert found["faults"] == []
    assert found["devices"][0]["device"] == "cpu"
    assert found["devices"][0]["precision"] in ("float32", "bfloat16")
    assert found["devices"][0]["memory"] >= found["devices"][0]["free"] > 0
    assert found["folders"]["results"]["writable"]
    assert found["servers"] is None
    assert "train.precision=auto is" in found["text"]
    json.dumps(found)


def test_optional_packages_that_are_missing_have_their_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = facts(capsys)
    assert found["optional"] == {"video": {"missing": ["lacking-one>=2"]}, "onnx": {"missing": []}}
    assert "video: pip install 'lacking-one>=2'\n  onnx: installed" in found["text"]


def test_weights_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in (
        "torch/hub/checkpoints/inception-2015-12-05.pt", "hf/hub/models--timm--resnet18/x",
        "runs/teacher.safetensors", "runs/quickstart/judge.safetensors", "runs/a/generator.pt",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert facts(capsys)["weights"] == {
        "torch.hub": ["inception-2015-12-05.pt"],
        "hugging face": ["timm/resnet18"],
        "classifiers": ["runs/quickstart/judge.safetensors", "runs/teacher.safetensors"],
    }


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("lacking-one>=2", "lacking-one: not installed; pip install 'lacking-one>=2'"),
        ("numpy>=999", "expected >=999; pip install 'numpy>=999'"),
    ],
)
def test_a_needed_package_fails(line: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DISTRIBUTION, "Requires-Dist", [line])
    with pytest.raises(VkdError, match="pip install") as caught:
        examine()
    assert fault in str(caught.value)


def test_a_requirement_of_another_system_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["lacking-one; sys_platform == 'plan9'", "numpy; python_version > '3'"]
    monkeypatch.setitem(DISTRIBUTION, "Requires-Dist", lines)
    assert list(doctor._requirements("")) == lines[1:]


def test_a_folder_that_cannot_be_written_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_unwritable", lambda folder: "cannot be written (read-only)")
    found = Findings()
    doctor.folders(found)
    assert [fault.rpartition("; ")[2] for fault in found.faults] == [
        "results files are written there", "temporary files are written there",
    ]  # fmt: skip


def test_servers_are_asked_with_a_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[float] = []

    def urlopen(request: Any, timeout: float) -> Any:
        asked.append(timeout)
        raise OSError(1, "no route")

    monkeypatch.setattr(doctor.urllib.request, "urlopen", urlopen)
    found = facts(capsys, network=True)
    assert asked == [doctor.PATIENCE] * len(doctor.SERVERS)
    assert set(found["servers"].values()) == {False}
    assert "not reachable (no route)" in found["text"]
