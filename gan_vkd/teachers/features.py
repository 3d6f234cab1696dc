"""Features of fixed images: computed once, cached in a file and verified before use."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_vkd.data.augment import Augmentations
from gan_vkd.data.image_set import ImageSet, to_network
from gan_vkd.distill import Teacher
from gan_vkd.distill.channels import WHITE
from gan_vkd.runtime import ranks
from gan_vkd.runtime.bars import progress_bar
from gan_vkd.runtime.checkpoint import digest, load_state, save_state
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.registry import Chosen

CHECKED = 8  # rows that are recomputed to verify a file
TOLERANCE = 1e-2  # relative error of these rows: devices and kernels round differently
BATCH = 200


def compute_once(
    compute: Callable[[Tensor], Tensor],
    rows: int,
    folder: Path | None,
    facts: Callable[[], dict[str, Any]],
    weights: dict[str, Tensor],
) -> Tensor:
    """Returns all rows of `compute`, read from a file in `folder`, or computed and saved there.

    The file's name is a digest of everything that the rows depend on. When it is read, a few rows
    are recomputed and compared; a file that is damaged or differs is reported and replaced.

    Args:
        compute: maps indices (n,) to rows (n, d), on any device.
        rows: number of rows.
        folder: folder of the cache; None saves nothing.
        facts: returns the JSON values that the rows depend on (data, layers, sizes, ...).
        weights: tensors that the rows depend on.
    """
    everything = torch.arange(rows)
    if folder is None:
        return compute(everything)
    state = {name: value.detach().cpu() for name, value in weights.items()}
    key = digest(json.dumps(facts(), sort_keys=True), state)
    file = user_path(folder) / f"{key[:32]}.safetensors"
    if file.exists():
        try:
            return _verified(file, key, compute, rows)
        except VkdError as error:
            print(f"features are computed again: {error}")
    features = compute(everything)
    try:
        save_state(file, {"kind": "features", "key": key, "features": features})
    except VkdError as error:
        print(f"features are not cached: {error}")
    return features


def _verified(file: Path, key: str, compute: Callable[[Tensor], Tensor], rows: int) -> Tensor:
    state = load_state(file)
    features = state.get("features")
    if state.get("key") != key or not isinstance(features, Tensor) or len(features) != rows:
        raise VkdError(f"{file}: does not hold the features that its name stands for")
    chosen = torch.linspace(0, rows - 1, CHECKED).long()
    recomputed = compute(chosen)
    features = features.to(recomputed.device)
    error = (features[chosen.to(recomputed.device)] - recomputed).norm() / recomputed.norm()
    if not error <= TOLERANCE:
        raise VkdError(f"{file}: differs from the network's present output (by {error:.1%})")
    return features


class FeatureBank:
    """A teacher's features of every image of a set, and of the mirror images where flips are used.

    Args:
        features: (N, d), or (2N, d) where the second half is of the mirror images.
        images: N.
    """

    def __init__(self, features: Tensor, images: int) -> None:
        self.features, self.images = features, images

    def __call__(self, indices: Tensor, flipped: Tensor) -> Tensor:
        """Indices (B,) of images and flips (B,), bool -> features (B, d)."""
        return self.features[indices + self.images * flipped]


def load_bank(teacher: Teacher, data: ImageSet, flip: bool, folder: Path | None) -> FeatureBank:
    """Computes a teacher's features of a set, or reads them from the cache.

    Args:
        teacher: on the device where the bank is kept.
        data: the training set.
        flip: whether features of the mirror images are needed too.
        folder: folder of the cache; None: no cache.
    """
    n, device = len(data), teacher.mean.device

    @torch.no_grad()
    def compute(rows: Tensor) -> Tensor:
        found = []
        for part in _batches(rows):
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
    """Computes or reads the features (N, d), (N, d) of two augmented views of every image.

    Args:
        teacher: on the device where the features are kept.
        data: the training set.
        policy: of the augmentation.
        folder: folder of the cache; None: no cache.
    """
    n, device = len(data), teacher.mean.device

    @torch.no_grad()
    def compute(rows: Tensor) -> Tensor:
        found = []
        for part in _batches(rows):
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
    """An augmented image (C, H, W), determined by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Augmentations(policy)(to_network(pixels[None]))[0]


def _batches(rows: Tensor) -> Iterable[Tensor]:
    return progress_bar(rows.split(BATCH), "teacher features")


def teacher_facts(teacher: Teacher) -> dict[str, Any]:
    """The JSON values that a teacher's features depend on, beside its weights."""
    layers = [vars(layer) for layer in teacher.reader.layers]
    facts = {"network": str(teacher.network), "layers": layers, "size": teacher.size}
    # left out at their defaults, so that existing files are found; the normalisation is among the
    # weights
    if teacher.enlarge != "bicubic":
        facts["enlarge"] = teacher.enlarge
    background = tuple(teacher.background.flatten().tolist())
    return facts if background == WHITE else facts | {"background": background}
