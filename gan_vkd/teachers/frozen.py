"""Frozen networks by name, with their own preprocessing: to distil from and to judge with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from gan_vkd.data.settings import DataSettings
from gan_vkd.distill import Layer, Teacher
from gan_vkd.networks.cifar_resnet import CifarResNet
from gan_vkd.networks.interface import NETWORKS, Discriminator
from gan_vkd.networks.weights import fill, load_foreign, unwrapped
from gan_vkd.runtime.checkpoint import load_state
from gan_vkd.runtime.components import Choice, OneOf, choice
from gan_vkd.runtime.errors import SettingsError, VkdError, one_line
from gan_vkd.runtime.folder import RunFolder
from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings_file import load_as
from gan_vkd.teachers.settings import LayerSettings, NetworkSettings

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)  # as mean and as std, it leaves images in [-1, 1]

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


@dataclass(frozen=True)
class Built:
    """A network with its weights, and what is its own.

    mean, std: of its normalisation, for images in [0, 1]. size: of its images; None: any. layer:
    where it is usually read. classifier: the module behind its features; "" for none. class_rows:
    the classifier's weights (C, d).
    """

    network: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    size: int | None = None
    layer: str = ""
    classifier: str = ""
    class_rows: Tensor | None = None

    def read_at(
        self, layers: list[Layer], settings: NetworkSettings, resolution: int, device: str
    ) -> Teacher:
        """Frozen, on the device.

        Raises:
            SettingsError: a layer or size that is not the network's, or nothing to enlarge.
        """
        size = settings.size or self.size
        if settings.enlarge != "bicubic" and size in (None, resolution):
            raise SettingsError(
                f"{settings.name}: enlarge = {settings.enlarge} has no effect, since images of "
                f"{resolution} pixels are shown as they are: set its size, or leave enlarge out"
            )
        mean, std = (self.mean, self.std) if settings.normalize else (HALF, HALF)
        try:
            return Teacher(
                self.network.to(device),
                mean=mean,
                std=std,
                size=(size, size) if size else None,
                enlarge=settings.enlarge,
                layers=layers,
                probe=resolution,
                class_rows=self.class_rows,
            )
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # networks fail on a size or layer not theirs in many ways
            reason = one_line(error)
            raise SettingsError(f"{settings.name}: cannot be read as asked: {reason}") from None


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
    built = _build(settings)
    read = [as_layer(layer, built.layer) for layer in layers or [settings]]
    return built.read_at(read, settings, resolution, device)


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
    built = _build(settings, whole=True)
    features = Layer(built.classifier, before=bool(built.classifier))
    if settings.layer is not None:
        features = as_layer(settings, built.layer)
    layers = [Layer(), features]
    if early is not None:
        layers.append(replace(as_layer(early, built.layer), rule="all"))
    teacher = built.read_at(layers, settings, resolution, device)
    if early is not None and len(shape := teacher.shapes[2]) != 4:
        raise SettingsError(
            f"{settings.name}: layer {early.layer} is no map: one image gives {shape} there"
        )
    return teacher


def as_layer(settings: LayerSettings, usual: str) -> Layer:
    """The layer that the settings name, or the network's usual one."""
    name = usual if settings.layer is None else settings.layer
    return Layer(name, settings.pool, settings.prefix_tokens, settings.channels_last)


def _build(settings: NetworkSettings, whole: bool = False) -> Built:
    """whole: with its classifier, where a network is usually read without."""
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


def _cifar_resnet(name: str, weights: str | None) -> Built:
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
    state = {str(k).removeprefix("module."): v for k, v in unwrapped(saved).items()}
    fill(network, state, weights or name)
    return _of_cifar(network, IMAGENET_MEAN, IMAGENET_STD)


def _of_cifar(network: CifarResNet, mean: Sequence[float], std: Sequence[float]) -> Built:
    rows = network.linear.weight.detach()
    return Built(network, mean, std, layer="pool", classifier="linear", class_rows=rows)


def _timm(name: str, weights: str | None, whole: bool) -> Built:
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
    built = Built(network, cfg["mean"], cfg["std"], cfg["input_size"][-1])
    if clip:
        return built
    head = network.get_classifier()
    rows = head.weight.detach() if isinstance(head, nn.Linear) else None
    if not whole:
        network.reset_classifier(0)
        return replace(built, class_rows=rows)
    names = network.pretrained_cfg["classifier"]
    name = names if isinstance(names, str) else names[0]
    return replace(built, class_rows=rows, classifier=name)


def _classifier(path: Path) -> Built:
    state = load_state(path)
    if state.get("kind") != "classifier":
        raise VkdError(f"{path}: not a classifier of `vkd teach`")
    network = CifarResNet(state["depth"], state["classes"])
    fill(network, state["network"], str(path))
    return _of_cifar(network, state["mean"], state["std"])


class _TrainedDiscriminator(Section):
    """What a run's settings say of its discriminator."""

    model_config = ConfigDict(extra="ignore")
    data: DataSettings
    model: Annotated[Choice, OneOf(NETWORKS, "biggan")] = choice("biggan")


class _FeaturesOf(nn.Module):
    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, images: Tensor) -> Tensor:
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return self.discriminator(images, labels).features


def _discriminator(path: Path) -> Built:
    settings = load_as(_TrainedDiscriminator, path)
    state = RunFolder(path).latest_state()
    if state is None:
        raise VkdError(f"{path}: no checkpoint in this run folder (weights of discriminator)")
    gan = state["trained"]
    architecture = NETWORKS.make(settings.model.chosen)
    network = architecture.discriminator(settings.data.resolution, gan["classes"])
    fill(network, gan["discriminator"], str(path))
    return Built(_FeaturesOf(network), mean=HALF, std=HALF)


def _unreachable(name: str, url: str, error: Exception) -> VkdError:
    reason = one_line(error)
    return VkdError(
        f"{name}: its weights could not be fetched from {url}; set `weights` beside its name to a "
        f"local copy ({reason})"
    )
