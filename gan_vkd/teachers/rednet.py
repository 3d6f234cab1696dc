"""RedNets: weights of the involution project, and CiT's second teacher in its layout."""

import re
from functools import partial
from typing import Any

from torch import Tensor

from gan_vkd.networks.rednet import BLOCKS, RedNet
from gan_vkd.networks.weights import fill, load_foreign, unwrapped
from gan_vkd.runtime.errors import VkdError
from gan_vkd.teachers.interface import IMAGENET_MEAN, IMAGENET_STD, TEACHERS, Built, local_path
from gan_vkd.teachers.settings import NetworkSettings

# the network in DataParallel, its backbone (in the involution project, in CiT's), its classifier
_PREFIXES = (
    (re.compile(r"^module\."), ""),
    (re.compile(r"^(backbone|model)\."), ""),
    (re.compile(r"^head\.fc\."), "classifier."),
)


def _name(published: str) -> str:
    for prefix, ours in _PREFIXES:
        published = prefix.sub(ours, published)
    return published


def _rednet(depth: int, settings: NetworkSettings, whole: bool = False) -> Built:
    """A local file: its publishers have no address that a program can fetch it from."""
    path = local_path(settings)
    state: dict[str, Any] = {_name(str(k)): v for k, v in unwrapped(load_foreign(path)).items()}
    rows = state.get("classifier.weight")
    if not isinstance(rows, Tensor) or rows.ndim != 2:
        raise VkdError(f"{path}: not a RedNet with its classifier (head.fc or classifier)")
    network = RedNet(depth, len(rows))
    fill(network, state, str(path))
    return Built(
        network, IMAGENET_MEAN, IMAGENET_STD, size=224, layer="pool", classifier="classifier",
        class_rows=network.classifier.weight.detach(),
    )  # fmt: skip


for _depth in BLOCKS:
    TEACHERS.register(f"rednet{_depth}")(partial(_rednet, _depth))
