"""Draws the figures of docs/method.md from real features.

    python docs/figures/method.py SHARED/data/cifar10-subset SHARED/weights

What whitening does to a teacher's features, and what an orthogonal projection keeps of a student's.
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor

from gan_vkd.data.image_set import to_network
from gan_vkd.data.sets import load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.distill import NORMALIZATIONS, VkDLoss, retract
from gan_vkd.report.figures import save_figure
from gan_vkd.teachers.frozen import load_teacher
from gan_vkd.teachers.settings import NetworkSettings

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).parent
NORMALISED = {
    "as they are": "none",
    "standardised": "standardize",
    "layer norm": "layer_norm",
    "PHI-S": "phi_s",
    "whitened": {"name": "whitening", "shrinkage": 0.0},
    "whitened, 16 directions": {"name": "whitening", "shrinkage": 0.0, "directions": 16},
}
COLOURS = ["#5b6470", "#d08c1d", "#2f7f79", "#8a5fb0", "#c0453b", "#35689e"]


def features_of(images: Path, weights: Path) -> Tensor:
    """Features (5000, 64) of CIFAR-10 images by a ResNet-56 that was trained on CIFAR-10."""
    file = weights / "cifar_resnet" / "resnet56-4bfd9763.th"
    settings = NetworkSettings(name="cifar_resnet56", weights=str(file))
    teacher = load_teacher(settings, 32, "cpu")
    data = load_training_set(DataSettings(source=str(images / "train.zip"), heldout=None))
    with torch.no_grad():
        return torch.cat([teacher(to_network(x)) for x in data.images.split(500)])


def normalised(features: Tensor, chosen: Any) -> Tensor:
    normalise = NORMALIZATIONS.make(chosen, features.shape[1])
    normalise(features)  # one batch: its statistics are those of all features
    return normalise.eval()(features)


def clouds(features: Tensor) -> Any:
    """Two neighbouring dimensions of the features after each normalisation."""
    figure, axes = plt.subplots(1, 5, figsize=(11, 2.6), layout="constrained")
    covariance = torch.corrcoef(features.T) - torch.eye(features.shape[1])
    i, j = divmod(int(covariance.argmax()), features.shape[1])
    for ax, (name, chosen), colour in zip(axes, NORMALISED.items(), COLOURS, strict=False):
        a, b = normalised(features, chosen)[:1500, [i, j]].T
        ax.scatter(a, b, s=3, alpha=0.35, color=colour, linewidths=0)
        ax.set_title(name, fontsize=10)
        ax.axhline(0, color="#999999", lw=0.5)
        ax.axvline(0, color="#999999", lw=0.5)
        ax.set_aspect("equal", "datalim")
        ax.tick_params(labelsize=7)
    return figure


def spectra(features: Tensor) -> Any:
    """Variance along the principal directions of the features after each normalisation."""
    figure, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
    for (name, chosen), colour in zip(NORMALISED.items(), COLOURS, strict=True):
        values = torch.linalg.eigvalsh(normalised(features, chosen).double().T.cov()).flip(0)
        ax.plot(range(1, len(values) + 1), values.clamp_min(1e-6), label=name, color=colour)
    ax.set_yscale("log")
    ax.set_ylim(1e-4, 60)
    ax.set_xlabel("principal direction")
    ax.set_ylabel("variance")
    ax.legend(fontsize=8, ncols=2)
    return figure


def projections(features: Tensor) -> Any:
    """An orthogonal and a linear projection of a student that knows nothing, fitted to the teacher.

    The student's features are those of a random network that never changes, so whatever the loss
    falls by is learnt by the projection alone.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(features.shape[1], 32, generator=generator)
    student = (features[:, torch.randperm(64, generator=generator)] @ hidden).sin()
    student = (student - student.mean(0)) / student.std()
    for name, colour in (("orthogonal", COLOURS[5]), ("linear", COLOURS[4])):
        torch.manual_seed(0)
        loss = VkDLoss(32, features.shape[1], projection=name)
        optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
        curve = []
        for step in range(600):
            rows = torch.arange(250 * step, 250 * (step + 1)) % len(features)
            value = loss(student[rows], features[rows])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            retract(loss)
            curve.append(value.item())
        with torch.no_grad():
            shown = student[:60]
            before, after = shown @ shown.T, loss.project(shown) @ loss.project(shown).T
        left.scatter(before.flatten(), after.flatten(), s=3, alpha=0.4, color=colour, label=name)
        right.plot(torch.tensor(curve).unfold(0, 20, 20).mean(1), color=colour, label=name)
    left.axline((0, 0), slope=1, color="#999999", lw=0.5)
    left.set_xlabel("inner products of the student's features")
    left.set_ylabel("after the projection")
    right.set_xticks(range(0, 31, 10), [str(20 * n) for n in range(0, 31, 10)])
    right.set_xlabel("updates of the projection alone")
    right.set_ylabel("distance to the whitened teacher")
    for ax in (left, right):
        ax.legend(fontsize=8)
    return figure


def main() -> None:
    features = features_of(Path(sys.argv[1]), Path(sys.argv[2]))
    for draw in (clouds, spectra, projections):
        save_figure(draw(features), FOLDER / f"{draw.__name__}.png", dpi=120)


if __name__ == "__main__":
    main()
