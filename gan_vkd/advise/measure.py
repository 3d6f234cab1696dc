"""Measures a teacher's layers on pictures."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gan_vkd.advise.candidates import layers_of, read_as
from gan_vkd.advise.measures import Probe, probe, retrieval, signal, spectrum
from gan_vkd.data.image_set import ImageSet, to_network
from gan_vkd.distill import NORMALIZATIONS, Teacher
from gan_vkd.distill.normalization import RunningStatistics
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.teachers.features import load_bank, load_views
from gan_vkd.teachers.frozen import as_layer, build
from gan_vkd.teachers.settings import LayerSettings, NetworkSettings

POLICY = ["color", "translation", "cutout"]  # DiffAugment's, of the views
AGREEING = 0.5  # correlation between views from which on a direction is more picture than view
TIMED = 32  # pictures of the batch whose forward is timed


@dataclass(frozen=True)
class Candidate:
    """A teacher that is ready to be measured.

    layers: how it is read, one for each layer of `teacher`; the first one is the network's usual
    features. seconds: of a forward, for each picture.
    """

    settings: NetworkSettings
    teacher: Teacher
    layers: list[LayerSettings]
    seconds: float


@dataclass(frozen=True)
class Row:
    """What was measured of a layer of a teacher; the fields are those of `measures`.

    directions: number of principal directions whose correlation between views is AGREEING or more.
    views: the features (N, d) of both views.
    """

    teacher: NetworkSettings
    layer: LayerSettings
    width: int
    seconds: float
    rank: float
    directions: int
    signal: float
    retrieval: float
    probe: Probe | None
    views: tuple[Tensor, Tensor] = field(repr=False)


def prepare(
    settings: NetworkSettings, data: ImageSet, device: str, background: Sequence[float]
) -> Candidate:
    """Loads a teacher, reads it at its usual layer and some inner ones, and times it.

    Inner layers are left out where the settings name a layer, and where one cannot be read.

    Args:
        settings: of the teacher.
        data: the pictures.
        device: where it runs.
        background: colour in [0, 1] that transparent pictures are put on.

    Raises:
        SettingsError: no such network or layer.
        VkdError: its weights cannot be had.
    """
    built = build(settings)
    sides = data.shape.height, data.shape.width

    def read(layers: list[LayerSettings]) -> Teacher:
        chosen = [as_layer(layer, built.layer) for layer in layers]
        return built.read_at(chosen, settings, sides, device, background)

    layers: list[LayerSettings] = [settings]
    if settings.layer is None:
        for name, width in layers_of(built).items():
            with suppress(SettingsError):
                layer = read_as(built, name)
                if width in (0, read([layer]).width):
                    layers.append(layer)
    teacher = read(layers)
    images = to_network(data.images[:TIMED].to(device))
    return Candidate(settings, teacher, layers, _seconds(teacher, images) / len(images))


@torch.no_grad()
def _seconds(teacher: Teacher, images: Tensor) -> float:
    """Of a forward, the second of two."""
    for _ in range(2):
        start = time.perf_counter()
        teacher(images).sum().item()  # waits for a GPU
    return time.perf_counter() - start


def measure(candidate: Candidate, data: ImageSet, seed: int) -> list[Row]:
    """Measures every layer of a teacher; an inner layer that equals the usual one is left out.

    seed: of the parts of the linear classifier's pictures.

    Raises:
        VkdError: features that are not finite.
    """
    teacher = candidate.teacher
    passes = [load_bank(teacher, data, False, None).features]
    passes += load_views(teacher, data, POLICY, None)
    if not all(features.isfinite().all() for features in passes):
        raise VkdError(f"{candidate.settings.name}: its features of these pictures are not finite")
    clean, *views = (features.cpu().split(teacher.widths, 1) for features in passes)
    labelled = in_classes(data.labels)
    rows = list[Row]()
    for layer, known, first, second in zip(candidate.layers, clean, *views, strict=True):
        if rows and known.shape == clean[0].shape and torch.allclose(known, clean[0], atol=1e-4):
            continue
        rank, agreement = spectrum(first, second)
        classified = probe(known[labelled], data.labels[labelled], seed) if len(labelled) else None
        rows.append(
            Row(
                teacher=candidate.settings,
                layer=layer,
                width=known.shape[1],
                seconds=candidate.seconds,
                rank=rank,
                directions=int((agreement >= AGREEING).sum()),
                signal=signal(first, second),
                retrieval=retrieval(first, second),
                probe=classified,
                views=(first, second),
            )
        )
    return rows


def in_classes(labels: Tensor) -> Tensor:
    """Indices of the pictures whose class has another picture; none where one class is left."""
    counts = labels.bincount()
    return (counts[labels] > 1).nonzero()[:, 0] if (counts > 1).sum() > 1 else labels[:0]


@dataclass(frozen=True)
class Target:
    """A normalisation of a layer, and what was measured of the normalised features."""

    normalization: dict[str, Any]
    rank: float
    signal: float
    retrieval: float


def normalized(row: Row, chosen: dict[str, Any]) -> Target:
    """Measures a layer's features as a normalisation makes targets of them.

    Raises:
        ValueError: the width has no such normalisation.
    """
    normalize = NORMALIZATIONS.make(chosen, row.width)
    if isinstance(normalize, RunningStatistics):
        normalize.fit(row.views)
    first, second = map(normalize.eval(), row.views)
    rank, _ = spectrum(first, second)
    return Target(chosen, rank, signal(first, second), retrieval(first, second))
