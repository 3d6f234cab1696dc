"""Weights that are not finite are refused in one line that names the file and the tensor."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from gan_vkd.data.settings import DataSettings
from gan_vkd.game.build import build_trainer
from gan_vkd.networks.cifar_resnet import CifarResNet
from gan_vkd.networks.interface import Generator
from gan_vkd.run import Run
from gan_vkd.runtime.checkpoint import load_state, save_state
from gan_vkd.runtime.errors import VkdError
from gan_vkd.teachers.frozen import load_recogniser, load_teacher
from gan_vkd.teachers.settings import NetworkSettings, TextSettings
from gan_vkd.teachers.teach import TeachSettings, teach
from gan_vkd.teachers.text import class_embeddings
from tests.conftest import MakeSettings
from tests.test_text import TINY, open_clip
from tests.test_text import teacher as text_teacher

BAD = [math.nan, math.inf]


def refusal(call: Callable[[], object], *parts: object) -> None:
    with pytest.raises(VkdError) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in (*parts, "is not finite"):
        assert str(part) in message


def spoilt(network: nn.Module, name: str, value: float) -> nn.Module:
    network.state_dict()[name].view(-1)[-1] = value
    return network


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(
    ("name", "tensor"),
    [("test_resnet", "layer1.0.conv1.weight"), ("test_resnet", "bn1.running_var"),
     ("test_resnet", "fc.bias"), ("test_vit", "pos_embed")],
)  # fmt: skip
def test_timm(name: str, tensor: str, value: float, tmp_path: Path) -> None:
    network, file = timm.create_model(name, pretrained=False), tmp_path / "weights.pth"
    torch.save(spoilt(network, tensor, value).state_dict(), file)
    settings = NetworkSettings(name=f"timm/{name}", weights=str(file))
    refusal(lambda: load_teacher(settings, 32, "cpu"), file, tensor)
    refusal(lambda: load_recogniser(settings, 32, "cpu"), file, tensor)


@pytest.mark.parametrize("value", BAD)
def test_cifar_resnets(value: float, tmp_path: Path) -> None:
    file = tmp_path / "resnet.th"
    torch.save(spoilt(CifarResNet(20), "conv1.weight", value).state_dict(), file)
    settings = NetworkSettings(name="cifar_resnet20", weights=str(file))
    refusal(lambda: load_teacher(settings, 32, "cpu"), file, "conv1.weight")


def test_classifiers(classifier: Path, tmp_path: Path) -> None:
    state, file = load_state(classifier), tmp_path / "classifier.safetensors"
    state["network"]["linear.weight"][0] = math.nan
    save_state(file, state)
    settings = NetworkSettings(name="classifier", weights=str(file))
    refusal(lambda: load_teacher(settings, 32, "cpu"), file, "linear.weight")


def test_discriminators(small: MakeSettings, tmp_path: Path) -> None:
    run, settings = Run(tmp_path), small(arm="none")
    trainer = build_trainer(settings, 10, "cpu")
    spoilt(trainer.discriminator, "linear.weight", math.nan)
    run.write_settings(settings.dump())
    run.save(1, {"trained": trainer.state()})
    network = NetworkSettings(name="discriminator", weights=str(tmp_path))
    refusal(lambda: load_teacher(network, 32, "cpu"), tmp_path, "linear.weight")


@pytest.mark.parametrize("value", BAD)
def test_text_towers(value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.pt"
    model = spoilt(open_clip.CLIP(**TINY), "token_embedding.weight", value)
    torch.save(model.state_dict(), file)
    configs = open_clip.factory._MODEL_CONFIGS | {"tiny": TINY}
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", configs)
    monkeypatch.setattr(open_clip, "list_models", lambda: ["tiny"])
    settings = TextSettings(model="tiny", weights=str(file))
    call = lambda: class_embeddings(settings, text_teacher(), ["cat"])  # noqa: E731
    refusal(call, "distill.text.weights", file, "token_embedding.weight")


def test_a_classifier_that_diverged_is_not_written(tmp_path: Path) -> None:
    file, data = tmp_path / "teacher.safetensors", DataSettings(source="digits", num_images=50)
    settings = TeachSettings(data=data, iterations=8, batch_size=10, lr=1e20)
    refusal(lambda: teach(settings, file), file, "a smaller lr")
    assert not file.exists()
    with pytest.raises(ValueError, match="less than or equal to"):
        TeachSettings(data=data, lr=1e300)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("tensor", ["linear.weight", "output_layer.0.stored_mean"])
def test_generators(tensor: str, value: float, small: MakeSettings, tmp_path: Path) -> None:
    run = exported(small, tmp_path, tensor, value)
    refusal(lambda: run.load_generator("cpu"), run.generator_file, tensor)


def exported(small: MakeSettings, folder: Path, tensor: str, value: float) -> Run:
    run, settings = Run(folder / "run"), small(arm="none")
    generator = build_trainer(settings, 10, "cpu").ema.generator
    assert isinstance(generator, Generator)
    run.write_settings(settings.dump())
    spoilt(generator, tensor, value)
    run.export(generator, {"iteration": 1, "shares": [0.1] * 10})
    return run
