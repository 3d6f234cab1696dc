"""`vkd advise PICTURES`: teachers at hand, the table, and settings that train."""

import csv
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from gan_vkd.advise.candidates import at_hand, layers_of, named, read_as
from gan_vkd.cli import main
from gan_vkd.game.settings import load_settings
from gan_vkd.networks.cifar_resnet import CifarResNet
from gan_vkd.runtime.checkpoint import save_state
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.teachers.interface import Built
from tests.processes import called
from tests.test_auto import encoded, folder, picture

TINY = ["model.channel_max=8", "model.z_dim=8", "model.w_dim=8", "train.batch_size=4"]
Answer = tuple[int, str, str]


@pytest.fixture
def vkd(tmp_path, monkeypatch) -> Callable[..., Answer]:
    """Runs `vkd` in an empty folder, without cached weights: exit code, output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("gan_vkd.advise.candidates._fetched", lambda: iter(()))

    def call(*arguments: object) -> Answer:
        done = called(main, *arguments)
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twelve pictures of two classes, of their own colours."""
    files = {}
    for i in range(12):
        image = picture(i).point([value // 4 + 150 * (i % 2) for value in range(256)] * 3)
        files[f"{'cat' if i % 2 else 'dog'}/{i}.png"] = encoded(image)
    return folder(tmp_path / "photos", files)


def classifier(file: Path, seed: int = 0) -> Path:
    """A file as `vkd teach` writes it, of random weights."""
    torch.manual_seed(seed)
    network = CifarResNet(8, 2).state_dict()
    facts = {"depth": 8, "classes": 2, "mean": [0.5] * 3, "std": [0.5] * 3, "network": network}
    save_state(file, {"kind": "classifier", **facts})
    return file


# the command


def test_the_command_that_is_printed_trains(vkd, photos, tmp_path):
    file = classifier(tmp_path / "teacher.safetensors")
    code, out, err = vkd("advise", photos, "device=cpu", *TINY, "--size", 32,
                         "--teacher", f"classifier={file}", "--out", "advice.md")  # fmt: skip
    assert (code, err) == (0, "")
    assert Path("advice.md").read_text() == out
    assert f"{photos}: 12 pictures at 32 pixels (data.seed 0), in 2 classes" in out
    line = next(line for line in out.splitlines() if line.startswith("vkd train "))

    trained = shlex.split(line)[1:]
    code, _, _ = vkd(*trained, "train.iterations=2", "--out", "run")
    assert code == 0
    settings = load_settings(tmp_path / "run")
    assert settings.arm == "advised"
    assert settings.distill is not None
    assert settings.distill.teacher.weights == str(file)
    assert settings.distill.method.name == "vkd"
    records = [json.loads(x) for x in Path("run", "metrics.jsonl").read_text().splitlines()]
    assert all(record["distill_loss"] > 0 for record in records if "distill_loss" in record)
    assert any("distill_loss" in record for record in records)


def test_the_tables_as_csv_and_the_same_result_twice(vkd, photos, tmp_path):
    flat = folder(
        tmp_path / "flat", {file.name: file.read_bytes() for file in photos.rglob("*.png")}
    )
    teachers = []
    for seed in (0, 1):
        file = classifier(tmp_path / f"{seed}.safetensors", seed)
        teachers += ["--teacher", f"classifier={file}"]
    found = []
    for name in ("a.csv", "b.csv"):
        code, out, _ = vkd("advise", flat, "--images", 8, "--out", name, *teachers)
        assert code == 0
        assert "8 pictures" in out
        assert "has no class folders" in out
        rows = list(csv.DictReader(Path(name).read_text().split("\nmeasure,")[0].splitlines()))
        found.append([{k: v for k, v in row.items() if k != "ms / picture"} for row in rows])
    first, second = found
    assert first == second
    assert {row["teacher"] for row in first} == {
        "classifier (0.safetensors)",
        "classifier (1.safetensors)",
    }
    assert {row["layer"] for row in first} == {"usual", "layer2"}  # layer3 is what pool reads
    assert all(row["probe"] == "" for row in first)


def test_pictures_are_left_out_where_the_time_is_short(vkd, tmp_path, monkeypatch):
    monkeypatch.setattr("gan_vkd.advise.measure._seconds", lambda teacher, images: 1e6)
    monkeypatch.setattr("gan_vkd.advise.command.FEWEST", 3)
    flat = folder(tmp_path / "flat", {f"{i}.png": encoded(picture(i)) for i in range(6)})
    file = classifier(tmp_path / "teacher.safetensors")
    code, out, _ = vkd("advise", flat, "--teacher", f"classifier={file}")
    assert code == 0
    assert "3 pictures" in out
    assert "fewer than 6" in out


def test_classes_of_one_picture_have_no_probe(vkd, tmp_path):
    singles = folder(tmp_path / "s", {f"{i}/a.png": encoded(picture(i)) for i in range(4)})
    file = classifier(tmp_path / "teacher.safetensors")
    code, out, _ = vkd("advise", singles, "--teacher", f"classifier={file}")
    assert code == 0
    assert "no probe: fewer than two classes have two pictures" in out


def test_bad_input_is_one_line(vkd, photos, tmp_path):
    file = classifier(tmp_path / "teacher.safetensors")
    one = folder(tmp_path / "one", {"a.png": encoded(picture())})
    for code, text, *arguments in (
        (1, "no teacher found", photos),
        (1, "one: one picture", one, "--teacher", f"classifier={file}"),
        (1, "no such file or folder", tmp_path / "nothing"),
        (2, "expected NAME", photos, "--teacher", "@96"),
        (2, "ends in .md or .csv", photos, "--out", "table.txt"),
        (2, "cifar_resnet9", photos, "--teacher", "cifar_resnet9"),
        (1, "missing.th: no such file", photos, "--teacher", "cifar_resnet20=missing.th"),
        (2, "data.resolution", photos, "data.resolution=37", "--teacher", f"classifier={file}"),
    ):
        found, out, err = vkd("advise", *arguments)
        assert (found, out) == (code, ""), err
        assert text in err
        assert err.count("\n") == 1


# the teachers


def test_a_teacher_is_a_name_with_a_size_and_a_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    full = named("timm/resnet18@96=a/b@2=3.safetensors")
    assert (full.name, full.size) == ("timm/resnet18", 96)
    assert full.weights == str(tmp_path / "a" / "b@2=3.safetensors")
    assert named("cifar_resnet56").model_dump(exclude_defaults=True) == {"name": "cifar_resnet56"}
    for bad in ("", "=file", "@96", "x@", "x@big", "x=", "x@0"):
        with pytest.raises(SettingsError):
            named(bad)


def test_weights_that_are_here_are_found(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    hub = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    assert at_hand(tmp_path / "runs") == []

    folder(tmp_path / "torch", {"hub/checkpoints/resnet20-12fca82f.th": b"x"})
    clip = "models--timm--vit_base_patch32_clip_224.openai/"
    without = "models--timm--resnet18.a1_in1k/"
    for model, file in ((clip, "model.safetensors"), (without, "config.json")):
        folder(hub, {f"{model}refs/main": b"0" * 40, f"{model}snapshots/{'0' * 40}/{file}": b"x"})
    classifier(tmp_path / "runs" / "teacher.safetensors")
    classifier(tmp_path / "runs" / "mine" / "teacher.safetensors")
    folder(tmp_path / "runs", {"teacher_2.safetensors": b"x"})
    assert [
        teacher.model_dump(exclude_defaults=True) for teacher in at_hand(tmp_path / "runs")
    ] == [
        {"name": "cifar_resnet20"},
        {"name": "timm/vit_base_patch32_clip_quickgelu_224.openai"},
        {"name": "classifier", "weights": str(tmp_path / "runs" / "mine" / "teacher.safetensors")},
        {"name": "classifier", "weights": str(tmp_path / "runs" / "teacher.safetensors")},
    ]


def as_built(network: nn.Module) -> Built:
    return Built(network, [0.5] * 3, [0.5] * 3)


def test_inner_layers_are_the_stages_of_the_later_half():
    assert list(layers_of(as_built(CifarResNet(8)))) == ["layer2", "layer3"]
    assert list(layers_of(as_built(nn.Linear(2, 2)))) == []
    vit = as_built(timm.create_model("vit_tiny_patch16_224", img_size=32))
    assert layers_of(vit) == {"blocks.5": 192, "blocks.8": 192, "blocks.11": 192}
    assert read_as(vit, "blocks.5").prefix_tokens == 1
    swin = as_built(timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)))
    assert layers_of(swin) == {"layers.1": 192, "layers.2": 384, "layers.3": 768}
    assert read_as(swin, "layers.1").channels_last
