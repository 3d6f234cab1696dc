"""Scores of training, held-out and fake images, which show overfitting of the discriminator."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gan_vkd.data.image_set import ImageSet, to_network
from gan_vkd.networks.interface import Discriminator, Generator, in_eval_mode
from gan_vkd.runtime.files import write_atomically
from gan_vkd.runtime.finite import finite

COUNT = 1000  # maximum number of images of each kind
BATCH = 100


class Scores:
    """Computes scores of the same images at every call, in eval mode and without augmentation.

    Args:
        data: the training set. At most COUNT images of each set are used, drawn by `seed`.
        heldout: the held-out set, or None. Images of classes that the training set does not have
            are left out.
        seed: of the draw of images and of the latents of the fake images.
    """

    def __init__(self, data: ImageSet, heldout: ImageSet | None, seed: int) -> None:
        self.seed = seed
        self.real = {"training": _draw(data, seed)}
        if heldout is not None:
            known = _in_classes_of(data, heldout)
            if len(known):
                self.real["heldout"] = _draw(known, seed)

    @torch.no_grad()
    def __call__(self, discriminator: Discriminator, generator: Generator) -> dict[str, Tensor]:
        """Returns scores (N,) on the CPU by kind: training, heldout (if there is one) and fake.

        Args:
            discriminator: in any mode.
            generator: of the fake images, prepared for sampling.
        """
        training, device = self.real["training"], next(discriminator.parameters()).device
        latents = generator.latents(len(training), source=torch.Generator().manual_seed(self.seed))
        batches = {
            kind: zip(images.images.split(BATCH), images.labels.split(BATCH), strict=True)
            for kind, images in self.real.items()
        }
        of_fakes = zip(latents.split(BATCH), training.labels.split(BATCH), strict=True)
        with in_eval_mode(discriminator):
            scores = {
                kind: [
                    discriminator(to_network(x.to(device)), y.to(device)).score for x, y in pairs
                ]
                for kind, pairs in batches.items()
            }
            scores["fake"] = [
                discriminator(generator(z.to(device), y.to(device)), y.to(device)).score
                for z, y in of_fakes
            ]
        return {kind: torch.cat(parts).float().cpu() for kind, parts in scores.items()}


def summary(scores: dict[str, Tensor]) -> dict[str, float]:
    """Returns the mean finite score by kind, and r_v = (train - heldout) / (train - fake).

    The overfitting heuristic r_v is 0 without overfitting and 1 if held-out images are scored like
    fake ones (Karras et al., NeurIPS 2020, equation 1). `scores_not_finite` is the number of the
    other scores, if there are any; values that are undefined are left out.
    """
    means = {f"score_{kind}": float(x.mean()) for kind, x in finite(scores).items()}
    train, heldout, fake = (
        means.get(f"score_{kind}", math.nan) for kind in ("training", "heldout", "fake")
    )
    means["r_v"] = (train - heldout) / ((train - fake) or math.nan)
    result = {name: value for name, value in means.items() if math.isfinite(value)}
    others = sum(int((~values.isfinite()).sum()) for values in scores.values())
    return result | ({"scores_not_finite": others} if others else {})


def save_histogram(scores: dict[str, Tensor], path: Path) -> None:
    """Writes histograms of the finite scores of all kinds to one PNG file."""
    from matplotlib.figure import Figure

    shown = {kind: values.double().numpy() for kind, values in finite(scores).items()}
    everything = np.concatenate([*shown.values(), []])
    low, high = (everything.min(), everything.max()) if len(everything) else (0.0, 1.0)
    margin = 1e-9 * max(abs(low), abs(high)) + 0.5 * (low == high)  # bins of a size above 0
    edges = np.linspace(low - margin, high + margin, 61)
    figure = Figure(figsize=(5, 3), dpi=120, layout="constrained")
    axes = figure.subplots()
    for kind, values in shown.items():
        axes.hist(values, edges.tolist(), histtype="step", density=True, label=kind)
    axes.set(xlabel="score of the discriminator", ylabel="density")
    if shown:
        axes.legend()
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _draw(data: ImageSet, seed: int) -> ImageSet:
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data.subset(order[:COUNT].tolist())


def _in_classes_of(data: ImageSet, heldout: ImageSet) -> ImageSet:
    """Held-out images of classes in the training set, relabelled with its class numbers."""
    if len(data.classes) < 2:
        return ImageSet(heldout.images, heldout.labels * 0, data.classes, heldout.names)
    index = {name: i for i, name in enumerate(data.classes)}
    names = [heldout.classes[label] for label in heldout.labels.tolist()]
    kept = [i for i, name in enumerate(names) if name in index]
    chosen = heldout.subset(kept)
    labels = torch.tensor([index[names[i]] for i in kept], dtype=torch.int64)
    return ImageSet(chosen.images, labels, data.classes, chosen.names)
