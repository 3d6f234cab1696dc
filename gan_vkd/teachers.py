"""Frozen networks by name, with their own preprocessing: to distil from and to judge with."""

import argparse
import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gan_vkd.checkpoint import is_foreign, load_state
from gan_vkd.checkpoint import load_weights as load_own
from gan_vkd.config import LayerSettings, NetworkSettings, load_settings
from gan_vkd.distill import Layer, Teacher
from gan_vkd.errors import SettingsError, VkdError, one_line
from gan_vkd.models.biggan import Discriminator
from gan_vkd.models.cifar_resnet import CifarResNet
from gan_vkd.run import Run

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Trained by Y. Idelbayev (github.com/akamaster/pytorch_resnet_cifar10); the name ends in the first
# digits of the file's SHA-256, which the download checks.
CIFAR_RESNET_URL = (
    "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models"
)
CIFAR_RESNET_FILES = {
    20: "resnet20-12fca82f.th",
    32: "resnet32-d509ac18.th",
    44: "resnet44-014dd654.th",
    56: "resnet56-4bfd9763.th",
    110: "resnet110-1d1ed7c2.th",
}


def load_teacher(
    settings: NetworkSettings,
    resolution: int,
    device: str,
    layers: Sequence[LayerSettings] | None = None,
) -> Teacher:
    """The network that the settings name, frozen, on the device.

    Args:
        settings: name, local weights, input size, and the layer it is usually read at.
        resolution: of the images it will be shown.
        device: where it runs.
        layers: to read instead of that one.

    Raises:
        SettingsError: no such network or layer.
        VkdError: weights that are missing, cannot be fetched or do not fit.
    """
    network, own = _build(settings)
    own_size = own.pop("size", None)
    size = settings.size or own_size
    usual = own.pop("layer", "")
    own.pop("classifier", None)
    try:
        return Teacher(
            network.to(device),
            size=(size, size) if size else None,
            layers=[as_layer(layer, usual) for layer in layers or [settings]],
            probe=resolution,
            **own,
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # networks fail on a size or layer that is not theirs in many ways
        raise _unreadable(settings, error) from None


def load_recogniser(
    settings: NetworkSettings,
    resolution: int,
    device: str,
    early: LayerSettings | None = None,
) -> Teacher:
    """The network that the settings name, frozen, read at its logits, its features and early maps.

    The first layer is the network's output, the second its features (what goes into the classifier,
    or the layer of the settings), the third, where it is asked for, an early map (B, d, H, W).

    Raises:
        SettingsError: no such network or layer.
        VkdError: weights that are missing, cannot be fetched or do not fit.
    """
    network, own = _build(settings, whole=True)
    own_size, classifier, usual = (
        own.pop("size", None),
        own.pop("classifier", ""),
        own.pop("layer", ""),
    )
    size = settings.size or own_size
    features = Layer(classifier, before=bool(classifier))
    if settings.layer is not None:
        features = as_layer(settings, usual)
    layers = [Layer(), features]
    if early is not None:
        layers.append(dataclasses.replace(as_layer(early, usual), rule="all"))
    try:
        teacher = Teacher(
            network.to(device),
            size=(size, size) if size else None,
            layers=layers,
            probe=resolution,
            **own,
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # networks fail on a size or layer that is not theirs in many ways
        raise _unreadable(settings, error) from None
    if early is not None and len(shape := teacher.shapes[2]) != 4:
        raise SettingsError(
            f"{settings.name}: layer {early.layer} is no map: one image gives {shape} there"
        )
    return teacher


def _unreadable(settings: NetworkSettings, error: Exception) -> SettingsError:
    message = one_line(error)
    return SettingsError(f"{settings.name}: cannot be read as asked: {message}")


def as_layer(settings: LayerSettings, usual: str) -> Layer:
    """The layer that the settings name, or the network's usual one."""
    name = usual if settings.layer is None else settings.layer
    return Layer(name, settings.pool, settings.prefix_tokens, settings.channels_last)


def _build(settings: NetworkSettings, whole: bool = False) -> tuple[nn.Module, dict[str, Any]]:
    """The network with its weights, and its own mean, std, size, feature layer and classifier.

    whole: with its classifier, where a network is usually read without.
    """
    name, weights = settings.name, settings.weights
    if name.startswith("timm/"):
        return _timm(name.removeprefix("timm/"), weights, whole)
    if name.startswith("cifar_resnet"):
        return _cifar_resnet(name, weights)
    if name in ("classifier", "discriminator"):
        if weights is None:
            raise SettingsError(f"{name}: set its weights to one of our files or run folders")
        path = Path(weights).expanduser()
        return _classifier(path) if name == "classifier" else _discriminator(path)
    raise SettingsError(
        f"{name}: unknown network; expected cifar_resnet20|32|44|56|110, timm/NAME, classifier "
        "or discriminator"
    )


def _cifar_resnet(name: str, weights: str | None) -> tuple[nn.Module, dict[str, Any]]:
    depth = name.removeprefix("cifar_resnet")
    if not depth.isdigit() or int(depth) not in CIFAR_RESNET_FILES:
        known = ", ".join(f"cifar_resnet{d}" for d in CIFAR_RESNET_FILES)
        raise SettingsError(f"{name}: unknown network; known are {known}")
    network = CifarResNet(int(depth))
    if weights is None:
        url = f"{CIFAR_RESNET_URL}/{CIFAR_RESNET_FILES[int(depth)]}"
        try:
            saved = torch.hub.load_state_dict_from_url(
                url, map_location="cpu", check_hash=True, weights_only=True, progress=False
            )
        except Exception as error:  # urllib, ssl, hash mismatch: all mean no weights
            raise _unreachable(name, url, error) from None
    else:
        saved = load_foreign(Path(weights).expanduser())
    state = saved.get("state_dict", saved)
    if isinstance(state, dict):
        state = {str(k).removeprefix("module."): v for k, v in state.items()}
    load_weights(network, state, weights or name)
    rows = network.linear.weight.detach()
    return network, {
        "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "layer": "pool", "class_rows": rows,
        "classifier": "linear",
    }  # fmt: skip


def _timm(name: str, weights: str | None, whole: bool) -> tuple[nn.Module, dict[str, Any]]:
    """CLIP towers are read at their output, the joint embedding; others before the classifier."""
    import timm
    from timm.data.config import resolve_model_data_config

    if weights is not None and not Path(weights).expanduser().is_file():
        raise VkdError(f"{weights}: no such file (weights of timm/{name})")
    clip = "clip" in name and "ft_in" not in name
    if not timm.is_model(name.split(".")[0]):
        raise SettingsError(f"timm/{name}: timm has no model of that name")
    try:
        overlay = None
        if weights is not None:  # older versions of timm would unpickle anything
            path = str(Path(weights).expanduser())
            overlay = {"state_dict": timm.models.load_state_dict(path, weights_only=True)}
            if not overlay["state_dict"]:  # timm would fetch the published ones in their place
                raise ValueError("there is nothing in it")
        # with its classifier, since timm lets any names pass where num_classes is not the weights'
        network: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # hub, network and file errors of many kinds
        if weights is None:
            raise _unreachable(f"timm/{name}", "its hub", error) from None
        reason = one_line(error)
        raise VkdError(f"{weights}: not weights of timm/{name} ({reason})") from None
    cfg = resolve_model_data_config(network)
    own = {"mean": cfg["mean"], "std": cfg["std"], "size": cfg["input_size"][-1]}
    if not clip:
        classifier = network.get_classifier()
        if isinstance(classifier, nn.Linear):
            own["class_rows"] = classifier.weight.detach()
        if whole:
            names = network.pretrained_cfg["classifier"]
            own["classifier"] = names if isinstance(names, str) else names[0]
        else:
            network.reset_classifier(0)
    return network, own


def _classifier(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    state = load_state(path)
    if state.get("kind") != "classifier":
        raise VkdError(f"{path}: not a classifier of `vkd teach`")
    network = CifarResNet(state["depth"], state["classes"])
    load_weights(network, state["network"], str(path))
    rows = network.linear.weight.detach()
    return network, {
        "mean": state["mean"], "std": state["std"], "layer": "pool", "class_rows": rows,
        "classifier": "linear",
    }  # fmt: skip


class _FeaturesOf(nn.Module):
    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, images: Tensor) -> Tensor:
        return self.discriminator.features(images)


def _discriminator(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    settings = load_settings(path)
    state = Run(path).latest_state()
    if state is None:
        raise VkdError(f"{path}: no checkpoint in this run folder (weights of discriminator)")
    gan = state["trained"]
    network = Discriminator(settings.data.resolution, settings.model.ch, gan["classes"])
    load_weights(network, gan["discriminator"], str(path))
    return _FeaturesOf(network), {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def load_foreign(path: Path) -> dict[str, Any]:
    """A torch or safetensors file of anybody's, read without running code.

    Raises:
        VkdError: missing, damaged, or a pickle with more than tensors in it.
    """
    if not path.is_file():
        raise VkdError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path) if is_foreign(path) else load_own(path)[0]
        with (
            warnings.catch_warnings(action="ignore"),  # of what it is about to refuse
            torch.serialization.safe_globals([argparse.Namespace]),  # settings beside weights
        ):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except VkdError:
        raise
    except Exception as error:  # pickle, zip and unpickling errors of many kinds
        reason = one_line(error)
        raise VkdError(f"{path}: not a file of weights ({reason})") from None
    if not isinstance(saved, dict):
        raise VkdError(f"{path}: expected a dictionary of weights, found {type(saved).__name__}")
    return saved


def load_weights(network: nn.Module, state: dict[str, Any], where: str) -> None:
    """Strict loading with one line for what does not fit."""
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = lines[1] if len(lines) > 1 else lines[0]
        raise VkdError(f"{where}: weights of another network: {reason[:200]}") from None


def _unreachable(name: str, url: str, error: Exception) -> VkdError:
    reason = one_line(error)
    return VkdError(
        f"{name}: its weights could not be fetched from {url} ({reason}); "
        "set `weights` beside its name to a local copy"
    )
