"""Teacher features of clean real images, computed once and looked up: a teacher for nothing."""

import json
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from gan_vkd.checkpoint import digest, load_state, save_state
from gan_vkd.data import ImageSet, to_network
from gan_vkd.distill import Teacher
from gan_vkd.errors import VkdError

CHECKED = 8  # images whose features are computed anew before a file is believed
TOLERANCE = 1e-2  # of their relative error: other devices and kernels round differently


class FeatureBank:
    """Features of every image of a set, and of its mirror images where those are trained on.

    Args:
        features: (N, d), or (2N, d) with those of the mirror images behind.
        images: N.
    """

    def __init__(self, features: Tensor, images: int) -> None:
        self.features, self.images = features, images

    def __call__(self, indices: Tensor, flipped: Tensor) -> Tensor:
        """Indices (B,) and bool (B,) -> features (B, d)."""
        return self.features[indices + self.images * flipped]


def load_bank(teacher: Teacher, data: ImageSet, flip: bool, folder: Path | None) -> FeatureBank:
    """The features of a set, from a file in `folder` or computed now and kept there.

    The file is named by a digest of everything that the features depend on: pixels, the teacher's
    weights, architecture, layers and preprocessing. Before it is believed, a few features are
    computed anew and compared; a file that is damaged or does not agree is named and replaced.

    Args:
        teacher: on the device that the bank will lie on.
        data: the training set.
        flip: whether mirror images are needed too.
        folder: None keeps the features for this run only.
    """
    if folder is None:
        return FeatureBank(_compute(teacher, data, flip), len(data))
    key = _key(teacher, data, flip)
    file = folder.expanduser() / f"{key[:32]}.safetensors"
    if file.exists():
        try:
            features = _read(file, key).to(teacher.mean.device)
            _require_agreement(file, features, teacher, data, flip)
            return FeatureBank(features, len(data))
        except VkdError as error:
            print(f"computed anew: {error}")
    features = _compute(teacher, data, flip)
    try:
        save_state(file, {"kind": "features", "key": key, "features": features})
    except VkdError as error:
        print(f"not kept: {error}")
    return FeatureBank(features, len(data))


def _key(teacher: Teacher, data: ImageSet, flip: bool) -> str:
    facts = {
        "data": data.fingerprint(),
        "flip": flip,
        "network": str(teacher.network),
        "layers": [vars(layer) for layer in teacher.reader.layers],
        "size": teacher.size,
    }
    state = {name: value.cpu() for name, value in teacher.state_dict().items()}
    return digest(json.dumps(facts, sort_keys=True), state)


def _read(file: Path, key: str) -> Tensor:
    state = load_state(file)
    features = state.get("features")
    if state.get("key") != key or not isinstance(features, Tensor):
        raise VkdError(f"{file}: features of another teacher or set")
    return features


def _require_agreement(
    file: Path, features: Tensor, teacher: Teacher, data: ImageSet, flip: bool
) -> None:
    chosen = torch.linspace(0, len(data) - 1, CHECKED).long()
    anew = _compute(teacher, data.subset(chosen.tolist()), flip)
    rows = torch.cat([chosen, chosen + len(data)]) if flip else chosen
    kept = features[rows.to(features.device)]
    error = (kept - anew).norm() / anew.norm()
    if not error <= TOLERANCE:
        raise VkdError(f"{file}: differs from what the teacher says now (by {error:.1%})")


@torch.no_grad()
def _compute(teacher: Teacher, data: ImageSet, flip: bool) -> Tensor:
    device = teacher.mean.device
    batches = data.images.split(200)
    variants: list[Tensor] = []
    for mirrored in (False, True) if flip else (False,):
        title = "teacher features" + (", mirrored" if mirrored else "")
        for images in tqdm(batches, desc=title, unit="batch", leave=False, disable=None):
            shown = to_network(images.to(device))
            variants.append(teacher(shown.flip(3) if mirrored else shown))
    return torch.cat(variants)
