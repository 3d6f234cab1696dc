"""Closed walks through the latent space, between seeds and classes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan_vkd.data.image_set import to_uint8
from gan_vkd.networks import stylegan2
from gan_vkd.networks.interface import Generator
from gan_vkd.runtime.bars import progress_bar
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.tools.inputs import inputs_of, shares_of
from gan_vkd.tools.styles import has_styles, with_styles


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Spherical interpolation of (B, d) and (B, d) (Shoemake, SIGGRAPH 1985).

    Keeps the length of normal latents, which is nearly the same for all; a straight line between
    them passes through shorter ones, which the generator has not been trained on (White, 2016).
    Vectors of one direction, or of opposite ones, are interpolated linearly.
    """
    cosine = torch.cosine_similarity(a, b, dim=1).clamp(-1, 1)[:, None]
    angle = cosine.acos()
    curved = (a * ((1 - t) * angle).sin() + b * (t * angle).sin()) / angle.sin()
    return torch.where(cosine.abs() < 1 - 1e-6, curved, a.lerp(b, t))


def walk(points: int, frames: int) -> Iterator[tuple[int, int, float]]:
    """Yields (i, j, t) of each frame: from a point i to the next one j, and back to the first."""
    for i in range(points):
        for frame in range(frames):
            yield i, (i + 1) % points, frame / frames


@torch.no_grad()
def interpolated(
    generator: Generator, latents: Tensor, labels: Tensor, frames: int, space: str
) -> Iterator[Tensor]:
    """Yields the frames, uint8 (C, H, W), of a closed walk through the points.

    Args:
        generator: truncated or not.
        latents: (N, z_dim).
        labels: (N,), of which embeddings, or w, are interpolated linearly.
        frames: between two points.
        space: "z", spherically; or "w", linearly, for networks that have a w.
    """
    between: Callable[[int, int, float], Tensor]
    if isinstance(generator, stylegan2.Generator):
        between = _StyleGAN2(generator, latents, labels, space)
    else:
        between = _OtherGenerator(generator, latents, labels)
    steps = walk(len(latents), frames)
    for i, j, t in progress_bar(steps, "frames", total=len(latents) * frames):
        yield to_uint8(between(i, j, t))[0]


class _StyleGAN2:
    """The picture between two points; classes are interpolated in w, linearly."""

    def __init__(
        self, generator: stylegan2.Generator, latents: Tensor, labels: Tensor, space: str
    ) -> None:
        self.generator, self.space = generator, space
        self.latents, self.labels = latents, labels
        self.w = generator.mapping(latents, labels)

    def __call__(self, i: int, j: int, t: float) -> Tensor:
        mapping, synthesis = self.generator.mapping, self.generator.synthesis
        first, last = self.w[i : i + 1], self.w[j : j + 1]
        if self.space == "z":
            z = slerp(self.latents[i : i + 1], self.latents[j : j + 1], t)
            first, last = mapping(z, self.labels[i : i + 1]), mapping(z, self.labels[j : j + 1])
        w = mapping.w_avg.lerp(first.lerp(last, t), self.generator.psi)
        return synthesis(w[:, None].expand(-1, synthesis.styles, -1))


class _OtherGenerator:
    """The picture between two points in z, with the embeddings of both classes blended."""

    def __init__(self, generator: Generator, latents: Tensor, labels: Tensor) -> None:
        self.generator, self.latents, self.labels = generator, latents, labels

    def __call__(self, i: int, j: int, t: float) -> Tensor:
        z = slerp(self.latents[i : i + 1], self.latents[j : j + 1], t)
        nearest = self.labels[[i if t < 0.5 else j]]
        if self.labels[i] == self.labels[j]:
            return self.generator(z, nearest)
        weights = z.new_zeros(1, self.generator.classes)
        weights[0, self.labels[i]], weights[0, self.labels[j]] = 1 - t, t
        with blended_classes(self.generator, weights):
            return self.generator(z, nearest)


@contextmanager
def blended_classes(generator: Generator, weights: Tensor) -> Iterator[None]:
    """Context in which class embeddings are weighted means over the classes.

    Args:
        generator: whose `nn.Embedding`s with a row for each class are concerned.
        weights: (B, classes), of which each row sums to 1.
    """

    def blend(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        assert isinstance(module, nn.Embedding)
        return (weights @ module.weight).to(output.dtype)

    hooks = [
        module.register_forward_hook(blend)
        for module in generator.modules()
        if isinstance(module, nn.Embedding) and module.num_embeddings == generator.classes
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def points(
    generator: Generator, facts: dict[str, Any], seeds: Sequence[int], classes: Sequence[str | None]
) -> tuple[Tensor, Tensor]:
    """Latents (N, z_dim) and labels (N,) of a walk; the shorter list is repeated.

    Args:
        generator, facts: of the run.
        seeds: of the latents.
        classes: names or numbers; None: that of the seed.

    Raises:
        SettingsError: no such class.
    """
    count = max(len(seeds), len(classes))
    drawn = [
        inputs_of(generator, shares_of(facts, classes[n % len(classes)]), [seeds[n % len(seeds)]])
        for n in range(count)
    ]
    latents, labels = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return latents, labels


def space_of(generator: Generator, chosen: str | None, run: Path) -> str:
    """The chosen space, z or w; None: w if the network has it.

    Raises:
        SettingsError: neither z nor w, or w of a network without.
    """
    if chosen is None:
        return "w" if has_styles(generator) else "z"
    if chosen not in ("z", "w"):
        raise SettingsError(f"--space {chosen}: expected z or w")
    if chosen == "w":
        with_styles(generator, run, "--space w")
    return chosen
