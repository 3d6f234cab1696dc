"""The teachers that are compared: those named, and those whose weights are on this machine."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gan_vkd.runtime.checkpoint import load_state
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.settings_file import validated
from gan_vkd.teachers.cifar_resnet import CIFAR_RESNET_FILES
from gan_vkd.teachers.interface import Built
from gan_vkd.teachers.settings import LayerSettings, NetworkSettings

# teachers of the shipped settings (configs/methods, configs/recipe)
SHIPPED = (
    "timm/vit_base_patch32_clip_quickgelu_224.openai",
    "timm/vit_base_patch16_224.dino",
    "timm/swin_tiny_patch4_window7_224.ms_in1k",
    "timm/tf_efficientnet_lite0",
)
TAUGHT = "teacher*.safetensors"  # files of `vkd teach`; others may be the judges of runs
DEPTHS = (0.5, 0.75, 1.0)  # of a network, at which layers are read beside its usual features


def named(text: str) -> NetworkSettings:
    """The teacher that `--teacher NAME[@SIZE][=FILE]` names; FILE as an absolute path.

    Raises:
        SettingsError: text of another form.
    """
    name, _, file = text.partition("=")
    name, at, size = name.partition("@")
    if not name or (at and not size.isdecimal()) or text.endswith("="):
        raise SettingsError(
            f"--teacher {text}: expected NAME, NAME@SIZE or NAME@SIZE=FILE, such as "
            "timm/tf_efficientnet_lite0@96=weights.safetensors"
        )
    weights = os.path.abspath(user_path(file)) if file else None
    tree = {"name": name, "weights": weights, "size": int(size) if size else None}
    return validated(NetworkSettings, tree, f"--teacher {text}")


def at_hand(runs: Path = Path("runs")) -> list[NetworkSettings]:
    """Teachers whose weights need no download: those that torch and timm have fetched before, and
    classifiers of `vkd teach` in the folder of runs or one level below it."""
    checkpoints = Path(torch.hub.get_dir(), "checkpoints")
    found = [
        {"name": f"cifar_resnet{depth}"}
        for depth, file in CIFAR_RESNET_FILES.items()
        if (checkpoints / file).is_file()
    ]
    found += [{"name": f"timm/{name}"} for name in _fetched()]
    for file in sorted([*runs.glob(TAUGHT), *runs.glob(f"*/{TAUGHT}")]):
        if _is_classifier(file):
            found.append({"name": "classifier", "weights": os.path.abspath(file)})
    return [NetworkSettings.model_validate(tree) for tree in found]


def _fetched() -> Iterator[str]:
    """Names of timm's models with weights in the cache of the Hugging Face hub."""
    from huggingface_hub import CacheNotFound, scan_cache_dir
    from timm.models import get_pretrained_cfg, list_models

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return
    cached = {repo.repo_id for repo in repos if any(map(_has_weights, repo.revisions))}
    facts = {name: get_pretrained_cfg(name) for name in sorted(list_models(pretrained=True))}
    # the last of the models that share a file is the one with CLIP's own activation (quickgelu)
    names = {known.hf_hub_id: name for name, known in facts.items() if known is not None}
    yield from sorted(names[repo] for repo in cached & names.keys())


def _has_weights(revision: Any) -> bool:
    return any(file.file_name.endswith((".safetensors", ".bin")) for file in revision.files)


def _is_classifier(file: Path) -> bool:
    try:
        return load_state(file).get("kind") == "classifier"
    except VkdError:
        return False


def layers_of(built: Built) -> dict[str, int]:
    """Names of inner layers of a network, at DEPTHS of it, with their widths (0: not known).

    They are the stages that timm lists of its networks, or the sequences that the network consists
    of.
    """
    network: Any = built.network
    stages = {info["module"]: info["num_chs"] for info in getattr(network, "feature_info", [])}
    if not stages:
        children = network.named_children()
        stages = {name: 0 for name, child in children if isinstance(child, torch.nn.Sequential)}
    chosen = [math.ceil(depth * len(stages)) - 1 for depth in DEPTHS]
    present = dict(network.named_modules())
    return {name: stages[name] for i, name in enumerate(stages) if i in chosen and name in present}


def read_as(built: Built, layer: str) -> LayerSettings:
    """How an inner layer is pooled: by the mean over positions, or tokens without leading ones."""
    network = built.network
    return LayerSettings(
        layer=layer,
        prefix_tokens=getattr(network, "num_prefix_tokens", 0),
        channels_last=getattr(network, "output_fmt", "NCHW") == "NHWC",
    )
