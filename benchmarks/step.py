"""What distillation adds to a discriminator step: python benchmarks/step.py

BigGAN's discriminator at ch 64 on a batch of 50 real and 50 fake images, 256 features to a teacher
of 512, the teacher's forward left out. Decompositions, one every 100 steps, are timed apart and
their amortised cost is added.
"""

import torch
from timing import machine, side_by_side

from gan_vkd.adversarial import hinge_discriminator
from gan_vkd.augment import augment
from gan_vkd.distill import VkDLoss
from gan_vkd.models.biggan import Discriminator, Generator

BATCH, DT, EVERY, ROUNDS = 50, 512, 100, 9
ARMS = {
    "no distillation": None,
    "linear, no normalisation": ("linear", "none"),
    "orthogonal, layer norm": ("orthogonal", "layer_norm"),
    "orthogonal, whitening": ("orthogonal", "whitening"),
    "static exponential, whitening": ("orthogonal_static", "whitening"),
}


def stepper(arm: tuple[str, str] | None, device: str):
    torch.manual_seed(0)
    generator, discriminator = Generator().to(device), Discriminator().to(device)
    if device == "cpu":
        generator.to(memory_format=torch.channels_last)
        discriminator.to(memory_format=torch.channels_last)
    method = None
    learnt = list(discriminator.parameters())
    if arm is not None:
        method = VkDLoss(256, DT, projection=arm[0], normalization=arm[1]).to(device)
        learnt += method.parameters()
    if arm is not None and arm[1] == "whitening":
        method.normalize.every = 10**9  # timed apart
    optimizer = torch.optim.Adam(learnt, 2e-4, (0.0, 0.999))
    real = torch.rand(BATCH, 3, 32, 32, device=device) * 2 - 1
    labels = torch.randint(10, (BATCH,), device=device)
    target = torch.randn(2 * BATCH, DT, device=device)

    def step() -> None:
        with torch.no_grad():
            fake = generator(torch.randn(BATCH, 128, device=device), labels)
        images = augment(torch.cat([fake, real]), ["translation", "cutout"])
        scores, features = discriminator(images, torch.cat([labels, labels]))
        loss = hinge_discriminator(scores[BATCH:], scores[:BATCH])
        if method is not None:
            loss = loss + 10 * method(features, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step, method


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made = {name: stepper(arm, device) for name, arm in ARMS.items()}
    whitening = made["orthogonal, whitening"][1].normalize
    parts = {
        "(decomposition)": whitening.decompose,
        "(whitening)": lambda: whitening(torch.randn(2 * BATCH, DT, device=device)),
    }
    for step, _ in made.values():
        step()
    found = side_by_side({name: step for name, (step, _) in made.items()}, ROUNDS)
    apart = side_by_side(parts, ROUNDS)
    base = found["no distillation"]
    amortised = apart["(decomposition)"] / EVERY
    print(f"A discriminator step, ch 64, batch {BATCH}, 256 to {DT}, median of {ROUNDS} rounds")
    print(f"{machine()}\n")
    print("| step | ms | more than without |")
    print("|---|---|---|")
    for name, seconds in found.items():
        total = seconds + (amortised if name.endswith("whitening") else 0)
        print(f"| {name} | {1000 * total:.1f} | {100 * (total / base - 1):+.1f}% |")
    print(
        f"\nWhitening alone: {1000 * apart['(whitening)']:.2f} ms a step and "
        f"{1000 * apart['(decomposition)']:.0f} ms a decomposition, one every {EVERY} steps: "
        f"{100 * (apart['(whitening)'] + amortised) / base:.2f}% of a step"
    )


if __name__ == "__main__":
    main()
