"""Frozen networks by name, with their own preprocessing: teachers and judges."""

from collections.abc import Sequence
from dataclasses import replace

from gan_vkd.distill import Layer, Teacher
from gan_vkd.distill.channels import WHITE
from gan_vkd.networks.weights import require_finite
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.teachers.interface import TEACHERS, Built
from gan_vkd.teachers.settings import LayerSettings, NetworkSettings


def load_teacher(
    settings: NetworkSettings,
    resolution: int | tuple[int, int],
    device: str,
    layers: Sequence[LayerSettings] | None = None,
    background: Sequence[float] = WHITE,
) -> Teacher:
    """Loads the network that the settings name, frozen, onto the device.

    Args:
        settings: name, local weights, input size, and the default layer.
        resolution: side, or height and width, of the images that it is given.
        device: where it runs.
        layers: layers to read instead of the default one.
        background: colour in [0, 1] that transparent images are put on.

    Raises:
        SettingsError: no such network or layer.
        VkdError: weights that are missing, cannot be fetched, do not fit or are not finite.
    """
    built = build(settings)
    read = [as_layer(layer, built.layer) for layer in layers or [settings]]
    return built.read_at(read, settings, resolution, device, background)


def load_recogniser(
    settings: NetworkSettings,
    resolution: int,
    device: str,
    early: LayerSettings | None = None,
) -> Teacher:
    """Loads the network that the settings name, frozen, read at its logits, features and early map.

    The first layer is the network's output, the second its features (the classifier's input, or the
    layer of the settings), the third an early map (B, d, H, W) where `early` is given.

    Raises:
        SettingsError: no such network or layer.
        VkdError: weights that are missing, cannot be fetched, do not fit or are not finite.
    """
    built = build(settings, whole=True)
    features = Layer(built.classifier, before=bool(built.classifier))
    if settings.layer is not None:
        features = as_layer(settings, built.layer)
    layers = [Layer(), features]
    if early is not None:
        layers.append(replace(as_layer(early, built.layer), rule="all"))
    teacher = built.read_at(layers, settings, resolution, device)
    if early is not None and len(shape := teacher.shapes[2]) != 4:
        raise SettingsError(
            f"{settings.name}: layer {early.layer} is no map: its output for an image is {shape}"
        )
    return teacher


def as_layer(settings: LayerSettings, default: str) -> Layer:
    """The layer that the settings name, or the network's default one."""
    name = default if settings.layer is None else settings.layer
    return Layer(name, settings.pool, settings.prefix_tokens, settings.channels_last)


def build(settings: NetworkSettings, whole: bool = False) -> Built:
    """Builds the network with its weights; `whole` keeps a classifier that is removed otherwise.

    Raises:
        SettingsError: no such network.
        VkdError: weights that are missing, cannot be fetched, do not fit or are not finite.
    """
    family = settings.name.partition("/")[0]
    if family not in TEACHERS:
        raise SettingsError(f"{settings.name}: {TEACHERS.unknown(settings.name)}")
    built = TEACHERS[family](settings, whole)
    require_finite(built.network, settings.weights or settings.name)
    return built
