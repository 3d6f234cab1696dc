"""Features of images that never change, computed once, kept in a file and checked before use."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gan_vkd.data.augment import Augmentations
from gan_vkd.data.image_set import ImageSet, to_network
from gan_vkd.distill import Teacher
from gan_vkd.runtime import ranks
from gan_vkd.runtime.checkpoint import digest, load_state, save_state
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.registry import Chosen

CHECKED = 8  # rows that are computed anew before a file is believed
TOLERANCE = 1e-2  # of their relative error: other devices and kernels round differently
BATCH = 200


def compute_once(
    compute: Callable[[Tensor], Tensor],
    rows: int,
    folder: Path | None,
    facts: Callable[[], dict[str, Any]],
    weights: dict[str, Tensor],
) -> Tensor:
    """All rows of `compute`, from a file in `folder` or computed now and kept there.

    The file is named by a digest of everything that the rows depend on. Before it is believed, a
    few are computed anew and compared; a file that is damaged or does not agree is named and
    replaced.

    Args:
        compute: indices (n,) to rows (n, d), on any device.
        rows: how many there are.
        folder: None keeps nothing.
        facts: gives the JSON values that the rows depend on (data, layers, sizes, ...).
        weights: tensors that they depend on.
    """
    everything = torch.arange(rows)
    if folder is None:
        return compute(everything)
    state = {name: value.detach().cpu() for name, value in weights.items()}
    key = digest(json.dumps(facts(), sort_keys=True), state)
    file = folder.expanduser() / f"{key[:32]}.safetensors"
    if file.exists():
        try:
            return _checked(file, key, compute, rows)
        except VkdError as error:
            print(f"computed anew: {error}")
    features = compute(everything)
    try:
        save_state(file, {"kind": "features", "key": key, "features": features})
    except VkdError as error:
        print(f"not kept: {error}")
    return features


def _checked(file: Path, key: str, compute: Callable[[Tensor], Tensor], rows: int) -> Tensor:
    state = load_state(file)
    features = state.get("features")
    if state.get("key") != key or not isinstance(features, Tensor) or len(features) != rows:
        raise VkdError(f"{file}: not the features that its name says")
    chosen = torch.linspace(0, rows - 1, CHECKED).long()
    anew = compute(chosen)
    features = features.to(anew.device)
    error = (features[chosen.to(anew.device)] - anew).norm() / anew.norm()
    if not error <= TOLERANCE:
        raise VkdError(f"{file}: differs from what the network says now (by {error:.1%})")
    return features


class FeatureBank:
    """A teacher's features of every image of a set, and of its mirror images where those train.

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
    """The features of a set, from `folder` where they are kept.

    Args:
        teacher: on the device that the bank will lie on.
        data: the training set.
        flip: whether mirror images are needed too.
        folder: None keeps the features for this run only.
    """
    n, device = len(data), teacher.mean.device

    @torch.no_grad()
    def compute(rows: Tensor) -> Tensor:
        found = []
        for part in _parts(rows):
            images = to_network(data.images[part % n].to(device))
            mirrored = (part >= n).to(device)[:, None, None, None]
            found.append(teacher(torch.where(mirrored, images.flip(3), images)))
        return torch.cat(found)

    def facts() -> dict[str, Any]:
        return {"data": data.fingerprint(), "flip": flip, **teacher_facts(teacher)}

    rows = 2 * n if flip else n
    features = ranks.from_first(
        lambda: compute_once(compute, rows, folder, facts, teacher.state_dict()).cpu()
    )
    return FeatureBank(features.to(device), n)


def load_views(
    teacher: Teacher, data: ImageSet, policy: Sequence[Chosen], folder: Path | None
) -> tuple[Tensor, Tensor]:
    """The features (N, d) of one augmented view of every image, and of another one.

    Args:
        teacher: on the device that the features will lie on.
        data: the training set.
        policy: of the augmentation.
        folder: None keeps the features for this run only.
    """
    n, device = len(data), teacher.mean.device

    @torch.no_grad()
    def compute(rows: Tensor) -> Tensor:
        found = []
        for part in _parts(rows):
            views = [_view(data.images[row % n], row, policy) for row in part.tolist()]
            found.append(teacher(torch.stack(views).to(device)))
        return torch.cat(found)

    def facts() -> dict[str, Any]:
        views = {"data": data.fingerprint(), "views": list(policy)}
        return {**views, **teacher_facts(teacher)}

    features = ranks.from_first(
        lambda: compute_once(compute, 2 * n, folder, facts, teacher.state_dict()).cpu()
    ).to(device)
    return features[:n], features[n:]


def _view(pixels: Tensor, seed: int, policy: Sequence[Chosen]) -> Tensor:
    """An augmented image (3, R, R), always the same for a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Augmentations(policy)(to_network(pixels[None]))[0]


def _parts(rows: Tensor) -> Iterable[Tensor]:
    return tqdm(rows.split(BATCH), "teacher features", leave=False, disable=None)


def teacher_facts(teacher: Teacher) -> dict[str, Any]:
    """What a teacher's features depend on beside its weights."""
    layers = [vars(layer) for layer in teacher.reader.layers]
    facts = {"network": str(teacher.network), "layers": layers, "size": teacher.size}
    # named where it is not the usual one, so that what was kept before is found; the normalisation
    # is among the weights
    return facts if teacher.enlarge == "bicubic" else facts | {"enlarge": teacher.enlarge}
