"""Teachers by name: networks, weights, layers, and one-line errors."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from gan_vkd.data.image_set import to_network
from gan_vkd.data.sets import load_heldout_set, load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.game.build import build_trainer
from gan_vkd.game.settings import load_settings
from gan_vkd.game.trainer import Trainer
from gan_vkd.networks.cifar_resnet import CifarResNet
from gan_vkd.networks.weights import load_foreign
from gan_vkd.run import Run
from gan_vkd.runtime.checkpoint import save_state
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.teachers.frozen import load_recogniser, load_teacher
from gan_vkd.teachers.settings import LayerSettings, NetworkSettings
from gan_vkd.teachers.teach import MEAN, STD, TeachSettings, measure_accuracy, teach
from tests.real_data import SHARED, needs_shared

RESNET = SHARED / "weights" / "cifar_resnet"


def load(name: str, weights: Path | str | None = None, *, resolution: int = 32, **options):
    path = None if weights is None else str(weights)
    return load_teacher(
        NetworkSettings(name=name, weights=path, **options), resolution=resolution, device="cpu"
    )


def refusal(call: Callable[[], object], kind: type[VkdError] = VkdError) -> str:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    assert len(message) < 700, "the line is not too long"
    return message


def random_images(count: int = 3, resolution: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, resolution, resolution) * 2 - 1


def away_from_initialisation(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def resnet(tmp_path) -> tuple[CifarResNet, Path]:
    network = away_from_initialisation(CifarResNet(20)).eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "resnet.th")
    return network, tmp_path / "resnet.th"


# CIFAR ResNets


@needs_shared
@pytest.mark.parametrize(
    ("depth", "file", "accuracy", "layer"),
    [(20, "resnet20-12fca82f.th", 0.916, "linear"), (56, "resnet56-4bfd9763.th", 0.927, "")],
)
def test_published_weights_have_the_expected_accuracy(depth, file, accuracy, layer):
    teacher = load(f"cifar_resnet{depth}", RESNET / file, layer=layer)
    heldout = load_training_set(
        DataSettings(source=str(SHARED / "data" / "cifar10-subset" / "test.zip"))
    )
    assert abs(measure_accuracy(teacher, heldout, "cpu") - accuracy) < 0.001


def test_a_cifar_resnet_is_read_before_its_classifier(resnet):
    network, file = resnet
    teacher, images = load("cifar_resnet20", file), random_images()
    assert teacher.width == 64
    mean, std = (torch.tensor(v)[:, None, None] for v in (
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    ))  # fmt: skip
    inputs = ((images + 1) / 2 - mean) / std
    features = teacher(images)
    assert torch.allclose(network.linear(features), network(inputs), atol=1e-5)
    assert torch.allclose(
        load("cifar_resnet20", file, layer="")(images), network(inputs), atol=1e-5
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
)
def test_wrapped_state_dicts_are_read(wrap, resnet, tmp_path):
    network, file = resnet
    torch.save(wrap(network.state_dict()), tmp_path / "other.th")
    images = random_images()
    assert torch.equal(
        load("cifar_resnet20", tmp_path / "other.th")(images), load("cifar_resnet20", file)(images)
    )


def test_safetensors_are_read(resnet, tmp_path):
    network, file = resnet
    save_file(network.state_dict(), tmp_path / "r.safetensors")
    images = random_images()
    assert torch.equal(
        load("cifar_resnet20", tmp_path / "r.safetensors")(images),
        load("cifar_resnet20", file)(images),
    )


@pytest.mark.parametrize(("layer", "rule", "width"), [
    ("layer2", "mean", 32), ("layer2", "sum", 32), ("layer3.0.bn1", "mean", 64),
])  # fmt: skip
def test_the_requested_layer_and_pooling_are_used(layer, rule, width, resnet):
    teacher, seen = load("cifar_resnet20", resnet[1], layer=layer, pool=rule), []
    assert teacher.width == width
    images = random_images()
    features = teacher(images)
    teacher.network.get_submodule(layer).register_forward_hook(lambda m, a, o: seen.append(o))
    teacher(images)
    maps = seen[0].flatten(2)
    assert torch.allclose(features, maps.mean(2) if rule == "mean" else maps.sum(2), rtol=1e-5)


def test_a_teacher_is_frozen_and_differentiable_in_its_images(resnet):
    teacher = load("cifar_resnet20", resnet[1])
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    teacher.train()
    nn.ModuleList([teacher]).train()
    assert not any(module.training for module in teacher.modules())
    images = random_images().requires_grad_()
    teacher(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_a_failed_download_is_an_error_that_says_what_to_set(monkeypatch):
    def unreachable(*args, **options):
        raise OSError("no route\nto host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    message = refusal(lambda: load("cifar_resnet20"))
    assert "github.com" in message
    assert "no route" in message
    assert "`weights`" in message


# timm

TIMM = ["test_resnet", "test_vit"]


def timm_weights(name: str, folder: Path, suffix: str) -> tuple[nn.Module, Path]:
    network = away_from_initialisation(timm.create_model(name, pretrained=False)).eval()
    file = folder / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), file)
    return network, file


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", TIMM)
def test_timm_features_are_read_before_the_classifier(name, suffix, tmp_path):
    network, file = timm_weights(name, tmp_path, suffix)
    teacher, images = load(f"timm/{name}", file), random_images()
    cfg = network.pretrained_cfg
    mean, std = (torch.tensor(cfg[key])[:, None, None] for key in ("mean", "std"))
    inputs = F.interpolate((images + 1) / 2, cfg["input_size"][1:], mode="bicubic", antialias=True)
    expected = network.forward_head(
        network.forward_features((inputs - mean) / std), pre_logits=True
    )
    assert teacher.width == expected.shape[1] == network.num_features
    assert torch.allclose(teacher(images), expected, atol=1e-5)


def test_a_timm_recogniser_returns_logits_features_and_an_early_map(tmp_path):
    network, file = timm_weights("test_resnet", tmp_path, ".pth")
    settings = NetworkSettings(name="timm/test_resnet", weights=str(file))
    early = LayerSettings(layer="layer1")
    teacher, images = load_recogniser(settings, 32, "cpu", early), random_images()
    logits, features, maps = teacher.read(images)
    cfg = network.pretrained_cfg
    mean, std = (torch.tensor(cfg[key])[:, None, None] for key in ("mean", "std"))
    inputs = F.interpolate((images + 1) / 2, cfg["input_size"][1:], mode="bicubic", antialias=True)
    torch.testing.assert_close(logits, network((inputs - mean) / std))
    head = network.get_classifier()
    torch.testing.assert_close(features @ head.weight.T + head.bias, logits)
    assert maps.ndim == 4


def test_the_input_size_of_timm_networks_may_be_set(tmp_path):
    _, file = timm_weights("test_resnet", tmp_path, ".pth")
    seen: list[torch.Size] = []
    teacher = load("timm/test_resnet", file, size=96)
    teacher.network.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[2:]))
    teacher(random_images())
    assert seen == [(96, 96)]


def test_images_may_be_resized_and_scaled_as_in_kd_dlgan(resnet):
    """In [-1, 1] without normalisation, enlarged by nearest neighbours."""
    seen: list[torch.Tensor] = []
    teacher = load("cifar_resnet20", resnet[1], size=96, enlarge="nearest", normalize=False)
    teacher.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images = random_images()
    teacher(images)
    torch.testing.assert_close(seen[0], images.repeat_interleave(3, 2).repeat_interleave(3, 3))


@pytest.mark.parametrize("size", [None, 32])
def test_enlarge_is_refused_where_images_are_not_enlarged(size, resnet):
    call = lambda: load("cifar_resnet20", resnet[1], size=size, enlarge="nearest")  # noqa: E731
    assert "enlarge = nearest has no effect, since images of 32" in refusal(call, SettingsError)


def test_an_impossible_input_size_is_refused(tmp_path):
    _, file = timm_weights("test_vit3", tmp_path, ".pth")
    message = refusal(lambda: load("timm/test_vit3", file, size=96), SettingsError)
    assert "cannot be read with these settings" in message


def test_a_clip_tower_is_read_at_its_joint_embedding(tmp_path, monkeypatch):
    """The code path of the real tower, at a hundredth of its size."""
    small = {"embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 512}
    create = timm.create_model

    def create_small(name: str, **options) -> nn.Module:
        return create(name, **{"img_size": 224, **options, **small})

    tower = create_small("vit_base_patch32_clip_224", pretrained=False).eval()
    save_file(tower.state_dict(), tmp_path / "clip.safetensors")
    monkeypatch.setattr(timm, "create_model", create_small)
    teacher = load("timm/vit_base_patch32_clip_224.openai", tmp_path / "clip.safetensors")
    images = random_images()
    # CLIP's own normalisation (Radford et al., 2021)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    inputs = F.interpolate((images + 1) / 2, (224, 224), mode="bicubic", antialias=True)
    assert teacher.width == 512, "the width of the joint space, not of the token"
    assert torch.allclose(teacher(images), tower((inputs - mean) / std), atol=1e-5)


def test_weights_of_another_timm_network_are_refused(tmp_path):
    _, resnet_file = timm_weights("test_resnet", tmp_path, ".pth")
    message = refusal(lambda: load("timm/test_vit", resnet_file))
    assert str(resnet_file) in message
    assert "timm/test_vit" in message


@pytest.mark.parametrize("change", ["drop", "rename", "shape"])
def test_timm_weights_that_fit_partially_are_refused(change, tmp_path):
    network, file = timm_weights("test_resnet", tmp_path, ".pth")
    state = network.state_dict()
    key = next(k for k in state if k.startswith("layer2") and k.endswith("weight"))
    value = state.pop(key)
    if change == "rename":
        state["other"] = value
    if change == "shape":
        state[key] = value[:1]
    torch.save(state, file)
    refusal(lambda: load("timm/test_resnet", file))


def test_an_unreachable_hub_is_an_error_that_says_what_to_set(monkeypatch):
    def unreachable(*args, **options):
        raise OSError("no route\nto host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    message = refusal(lambda: load("timm/test_resnet.r160_in1k"))
    assert "no route" in message
    assert "`weights`" in message


# networks of this project

TEACH = {"data": {"source": "digits", "flip": False}, "depth": 8, "iterations": 2}


def test_a_taught_classifier_may_be_a_teacher(tmp_path):
    file = tmp_path / "teacher.safetensors"
    accuracy = teach(TeachSettings.model_validate(TEACH | {"batch_size": 8}), file)
    assert load("classifier", file).width == 64
    logits = load("classifier", file, layer="")
    assert logits.width == 10
    heldout = load_heldout_set(DataSettings(source="digits"))
    assert heldout is not None
    assert measure_accuracy(logits, heldout, "cpu") == accuracy


@pytest.fixture
def run(tmp_path) -> tuple[Run, Trainer]:
    (tmp_path / "given.yaml").write_text(
        "arm: none\ndata: {source: digits}\nmodel: {ch: 2, z_dim: 8}\n"
    )
    settings = load_settings(tmp_path / "given.yaml")
    run, gan = Run(tmp_path / "run"), build_trainer(settings, 10, "cpu")
    run.write_settings(settings.dump())
    run.save(1, {"trained": gan.state()})
    return run, gan


def test_the_discriminator_of_a_run_may_be_a_teacher(run):
    folder, gan = run[0].path, run[1]
    teacher, images = load("discriminator", folder), random_images()
    gan.discriminator.eval()
    assert teacher.width == gan.discriminator.linear.in_features
    assert torch.allclose(teacher(images), gan.discriminator.features(images), atol=1e-5)


def test_a_run_without_a_checkpoint_is_refused(run):
    for file in run[0].checkpoints():
        file.unlink()
    assert "no checkpoint" in refusal(lambda: load("discriminator", run[0].path))


# what is refused


@pytest.mark.parametrize(
    "name",
    ["", "clip", "inception", "cifar_resnet", "cifar_resnet21", "cifar_resnet-20", "timm/",
     "timm/no_such_network", "timm/../x", "Classifier"],
)  # fmt: skip
def test_unknown_networks_are_refused(name):
    message = refusal(lambda: load(name), SettingsError)
    assert "network" in message or "no model" in message


@pytest.mark.parametrize("name", ["cifar_resnet20", "timm/test_vit", "classifier", "discriminator"])
def test_missing_weights_are_named(name, tmp_path):
    path = tmp_path / "nowhere.pth"
    assert str(path) in refusal(lambda: load(name, path))


@pytest.mark.parametrize("name", ["classifier", "discriminator"])
def test_networks_of_this_project_need_a_file(name):
    assert "weights" in refusal(lambda: load(name), SettingsError)


class Trap:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["cifar_resnet20", "timm/test_vit", "classifier"])
@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_a_pickle_is_refused_without_running_it(name, form, tmp_path):
    file, sprung = tmp_path / "evil.pth", tmp_path / "sprung"
    content = {"conv1.weight": torch.ones(1), "x": Trap(sprung)}
    if form == "plain":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
    assert str(file) in refusal(lambda: load(name, file))
    assert not sprung.exists()
    if form == "zip":
        torch.load(file, weights_only=False)
        assert sprung.exists(), "the pickle has an effect when it is loaded"


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["cifar_resnet20", "timm/test_resnet", "classifier"])
@pytest.mark.parametrize(
    "content",
    [b"", b"text\nof lines", saved({"a": torch.ones(2)})[:-40], saved([1]), saved(torch.ones(2)),
     saved({}), saved({"state_dict": [1]}), saved({"state_dict": None}), saved({1: torch.ones(2)}),
     saved({"conv1.weight": "text"}), saved({"state_dict": {"conv1.weight": None}})],
    ids=range(11),
)  # fmt: skip
def test_files_without_matching_weights_are_refused(name, content, tmp_path, monkeypatch):
    file = tmp_path / "w.pth"
    file.write_bytes(content)
    fetched = []
    fetch = "timm.models._builder.load_state_dict_from_hf"
    monkeypatch.setattr(fetch, lambda *where, **options: fetched.append(where))
    assert str(file) in refusal(lambda: load(name, file))
    assert not fetched


def test_damaged_safetensors_are_refused(tmp_path):
    save_file({"a": torch.ones(100)}, tmp_path / "w.safetensors")
    data = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(data[:-7])
    refusal(lambda: load_foreign(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("change", ["drop", "add", "shape"])
def test_weights_that_do_not_fit_are_refused(change, resnet, tmp_path):
    network, file = resnet
    state = network.state_dict()
    if change == "drop":
        del state["conv1.weight"]
    elif change == "add":
        state["extra"] = torch.ones(1)
    else:
        state["conv1.weight"] = torch.ones(16, 4, 3, 3)
    torch.save(state, file)
    message = refusal(lambda: load("cifar_resnet20", file))
    assert "weights of another network" in message
    assert ("extra" if change == "add" else "conv1.weight") in message


def test_weights_of_another_depth_are_refused(resnet):
    assert "another network" in refusal(lambda: load("cifar_resnet32", resnet[1]))


def test_other_state_files_are_not_classifiers(tmp_path):
    save_state(tmp_path / "s.safetensors", {"kind": "else"})
    assert "not a classifier" in refusal(lambda: load("classifier", tmp_path / "s.safetensors"))
    state = {"kind": "classifier", "depth": 20, "classes": 10, "mean": MEAN, "std": STD}
    state["network"] = CifarResNet(8).state_dict()
    save_state(tmp_path / "s.safetensors", state)
    assert "another network" in refusal(lambda: load("classifier", tmp_path / "s.safetensors"))


def test_a_missing_layer_is_reported_with_the_existing_ones(resnet):
    message = refusal(lambda: load("cifar_resnet20", resnet[1], layer="layer9"), SettingsError)
    assert "layer9" in message
    assert "layer3" in message


def test_pooling_that_does_not_fit_the_layer_is_refused(resnet):
    call = lambda: load("cifar_resnet20", resnet[1], layer="layer3", pool="first")  # noqa: E731
    assert "cannot pool" in refusal(call, SettingsError)


def test_teachers_take_images_in_network_range(resnet):
    teacher = load("cifar_resnet20", resnet[1])
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    seen: list[torch.Tensor] = []
    teacher.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    teacher(to_network(white))
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(seen[0][0, :, 0, 0], expected, atol=1e-5)
