"""Times the discriminator step with and without distillation: python benchmarks/step.py

configs/cifar10_10pct.yaml in float32 (ch 64, 50 real and 50 fake images), 256 features to a
teacher of 512 whose forward is left out: its features are precomputed. In the last arm they are
looked up by index for clean real images, as the trainer does. Decompositions, one every 100 steps,
are timed separately and their amortised cost is added.
"""

from pathlib import Path

import torch
from timing import machine, side_by_side

from gan_vkd.data.batches import Batch
from gan_vkd.game.build import build_trainer
from gan_vkd.game.settings import load_settings
from gan_vkd.game.trainer import Trainer
from gan_vkd.teachers.features import FeatureBank

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DT, IMAGES, ROUNDS = 512, 5000, 15
FLOAT32 = ["train.precision=float32"]
ARMS = {
    "no distillation": None,
    "linear, no normalisation": ("linear", "none", "augmented"),
    "orthogonal, layer norm": ("orthogonal", "layer_norm", "augmented"),
    "orthogonal, whitening": ("orthogonal", "whitening", "augmented"),
    "static exponential, whitening": ("orthogonal_static", "whitening", "augmented"),
    "orthogonal, whitening, clean real images looked up": ("orthogonal", "whitening", "clean"),
}


class KnownTeacher:
    """Returns the same features for any images."""

    def __init__(self, device: str) -> None:
        self.widths = [DT]
        self.features = torch.randn(200, DT, device=device)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.features[: len(images)]


def build(arm: tuple[str, str, str] | None, device: str) -> Trainer:
    torch.manual_seed(0)
    if arm is None:
        return build_trainer(load_settings(CONFIGS / "cifar10_10pct.yaml", FLOAT32), 10, device)
    projection, normalization, view = arm
    never = ", every: 1000000000" if normalization == "whitening" else ""  # timed separately
    changes = [
        *FLOAT32,
        f"distill.method.projection={projection}",
        f"distill.method.normalization={{name: {normalization}{never}}}",
        f"distill.view={view}",
        f"distill.images={'real' if view == 'clean' else 'both'}",
    ]
    settings = load_settings(CONFIGS / "cifar10_10pct+methods/whitening", changes)
    bank = FeatureBank(torch.randn(2 * IMAGES, DT, device=device), IMAGES)
    return build_trainer(settings, 10, device, KnownTeacher(device), lambda: bank)


def stepper(gan: Trainer, size: int = 50):
    batch = Batch(
        torch.rand(size, 3, 32, 32, device=gan.device) * 2 - 1,
        torch.randint(10, (size,), device=gan.device),
        torch.randint(IMAGES, (size,), device=gan.device),
        torch.rand(size, device=gan.device) < 0.5,
    )
    return lambda: gan.discriminator_step(batch, batch.labels, 0)


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gans = {name: build(arm, device) for name, arm in ARMS.items()}
    found = side_by_side({name: stepper(gan) for name, gan in gans.items()}, ROUNDS)
    whitening = gans["orthogonal, whitening"].distillation.method.methods[0].normalize
    every = 100
    decomposition = side_by_side({"one": whitening.decompose}, ROUNDS)["one"] / every
    base = found["no distillation"]
    print(f"A discriminator step, ch 64, batch 50, 256 to {DT}, median of {ROUNDS} rounds")
    print(f"{machine()}\n")
    print("| step | ms | added |")
    print("|---|---|---|")
    for name, seconds in found.items():
        total = seconds + (decomposition if "whitening" in name else 0)
        print(f"| {name} | {1000 * total:.1f} | {100 * (total / base - 1):+.1f}% |")


if __name__ == "__main__":
    main()
