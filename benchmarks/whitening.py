"""Times normalisations relative to a discriminator step: python benchmarks/whitening.py

A batch of 100 features of width dt updates the running statistics and is normalised. The
decomposition is timed separately; the amortised cost assumes one every 100 updates, the default.
The step is the trainer's at ch 64 on 50 real and 50 fake images, without distillation.
"""

from functools import partial

import torch
from step import build, stepper
from timing import machine, side_by_side

from gan_vkd.distill.normalization import NORMALIZATIONS, Whitening

WIDTHS = [64, 512, 768, 2048, 3024]
CHOICES = {
    "layer_norm": {"name": "layer_norm"},
    "standardize": {"name": "standardize"},
    "whitening": {"name": "whitening"},
    "whitening, pca": {"name": "whitening", "kind": "pca"},
    "whitening, cholesky": {"name": "whitening", "kind": "cholesky"},
}
BATCH, ROUNDS, STEP_ROUNDS = 100, 9, 5


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    seconds = side_by_side({"step": stepper(build(None, device))}, STEP_ROUNDS)["step"]
    print(f"Milliseconds of a normalisation of {BATCH} features, median of {ROUNDS} rounds")
    print(f"(in brackets: of a decomposition); a discriminator step takes {1000 * seconds:.0f}")
    print(f"{machine()}\n")
    print("| dt | " + " | ".join(CHOICES) + " | whitening, amortised, of a step |")
    print("|---" * (len(CHOICES) + 2) + "|")
    for width in WIDTHS:
        features = torch.randn(BATCH, width, device=device)
        modules = {
            name: NORMALIZATIONS.make(chosen, width).to(device) for name, chosen in CHOICES.items()
        }
        updates, decompositions = {}, {}
        for name, module in modules.items():
            module(features)
            updates[name] = partial(module, features)
            if isinstance(module, Whitening):
                every, module.every = module.every, 10**9
                module._updates = 10**8 + 1  # beyond the powers of two, no decomposition is due
                decompositions[name] = module.decompose
        apart = side_by_side(decompositions, ROUNDS if width < 1000 else 3)
        found = side_by_side(updates, ROUNDS)
        cells = [
            f"{1000 * found[name]:.2f}" + (f" ({1000 * apart[name]:.0f})" if name in apart else "")
            for name in CHOICES
        ]
        share = (found["whitening"] + apart["whitening"] / every) / seconds
        print(f"| {width} | " + " | ".join(cells) + f" | {100 * share:.2f}% |", flush=True)


if __name__ == "__main__":
    main()
