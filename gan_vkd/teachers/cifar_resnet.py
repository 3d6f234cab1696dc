"""CIFAR ResNets: published weights, and checkpoints of `vkd teach`."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from gan_vkd.networks.cifar_resnet import CifarResNet
from gan_vkd.networks.weights import fill, load_foreign, unwrapped
from gan_vkd.runtime.bars import on_terminal
from gan_vkd.runtime.checkpoint import load_state
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.facts import Facts, checked
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.settings import Above0
from gan_vkd.teachers.interface import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TEACHERS,
    Built,
    local_path,
    unreachable,
)
from gan_vkd.teachers.settings import NetworkSettings

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


def _published(depth: int, settings: NetworkSettings, whole: bool = False) -> Built:
    name, weights = settings.name, settings.weights
    network = CifarResNet(depth)
    if weights is None:
        url = f"{CIFAR_RESNET_URL}/{CIFAR_RESNET_FILES[depth]}"
        try:
            saved = torch.hub.load_state_dict_from_url(
                url, map_location="cpu", check_hash=True, weights_only=True, progress=on_terminal()
            )
        except Exception as error:  # urllib, ssl, hash mismatch: all mean no weights
            raise unreachable(name, url, error) from None
    else:
        saved = load_foreign(user_path(weights))
    state = {str(k).removeprefix("module."): v for k, v in unwrapped(saved).items()}
    fill(network, state, weights or name)
    return _built(network, IMAGENET_MEAN, IMAGENET_STD)


def _built(network: CifarResNet, mean: Sequence[float], std: Sequence[float]) -> Built:
    rows = network.linear.weight.detach()
    return Built(network, mean, std, layer="pool", classifier="linear", class_rows=rows)


for _depth in CIFAR_RESNET_FILES:
    TEACHERS.register(f"cifar_resnet{_depth}")(partial(_published, _depth))


class ClassifierFacts(Facts):
    """The entries of a checkpoint of `vkd teach` that the network is built from."""

    depth: Literal[8, 14, 20, 32, 44, 56]
    classes: Annotated[int, Field(ge=2, le=100_000)]
    mean: tuple[float, float, float]
    std: tuple[Above0, Above0, Above0]
    network: dict[str, Any]


@TEACHERS.register("classifier")
def classifier(settings: NetworkSettings, whole: bool = False) -> Built:
    """A checkpoint of `vkd teach`."""
    path = local_path(settings)
    state = load_state(path)
    if state.get("kind") != "classifier":
        raise VkdError(f"{path}: not a classifier of `vkd teach`")
    facts = checked(ClassifierFacts, state, path)
    network = CifarResNet(facts["depth"], facts["classes"])
    fill(network, facts["network"], str(path))
    return _built(network, facts["mean"], facts["std"])
