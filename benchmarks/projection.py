"""Times one step of each projection, forward, backward and SGD: python benchmarks/projection.py

`full` is the published exponential of dt x dt and `thin` the same map in its thin form;
`orthogonal`, this project's default, moves its base instead of differentiating an exponential;
`torch` is torch's parametrizations.orthogonal with its default map. Each step changes the
parameters, so every timed forward computes the matrix anew. Above dt = 1,000, where the published
form takes seconds, three rounds are timed. A second table has the retraction alone, after a step of
2e-4 in random signs: by the fixed series that `retract` uses and by `torch.linalg.matrix_exp`, in
milliseconds of the process on a CPU.
"""

import time

import torch
from timing import machine, side_by_side
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

from gan_vkd.distill import PROJECTIONS, retract
from gan_vkd.distill.projection import geodesic, polish, random_frame
from gan_vkd.distill.retraction import step_along

WIDTHS = [(256, 512), (192, 768), (256, 2048), (192, 3024), (384, 3024)]
RETRACTED = [(32, 64), (256, 512), (192, 768), (256, 1280), (512, 1280), (512, 768), (512, 512)]
NAMES = {
    "orthogonal": "orthogonal",
    "thin": "orthogonal_static",
    "full": "orthogonal_full",
    "cayley": "cayley",
    "householder": "householder",
    "linear": "linear",
}
RATIOS = [
    ("full", "orthogonal"),
    ("torch", "orthogonal"),
    ("full", "thin"),
    ("torch", "thin"),
]
BATCH, ROUNDS, WIDE_ROUNDS = 100, 7, 3


def stepper(module: nn.Module, features: torch.Tensor, weights: torch.Tensor):
    optimizer = torch.optim.SGD(module.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        (module(features) * weights).mean().backward()
        optimizer.step()
        retract(module)

    return step


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    columns = [*NAMES, "torch"]
    print(
        f"Milliseconds per step (forward, backward, SGD), batch {BATCH}, median of {ROUNDS} rounds,"
    )
    print(f"of {WIDE_ROUNDS} where dt is above 1,000")
    print(f"{machine()}\n")
    titles = [f"{slow} / {fast}" for slow, fast in RATIOS]
    print("| " + " | ".join(["ds, dt", *columns, *titles]) + " |")
    print("|---" * (1 + len(columns) + len(titles)) + "|")
    for ds, dt in WIDTHS:
        features = torch.randn(BATCH, ds, device=device, requires_grad=True)
        weights = torch.randn(BATCH, dt, device=device)
        modules = {key: PROJECTIONS.make(name, ds, dt) for key, name in NAMES.items()}
        modules["torch"] = orthogonal(nn.Linear(ds, dt, bias=False))
        steps = {k: stepper(m.to(device), features, weights) for k, m in modules.items()}
        found = side_by_side(steps, ROUNDS if dt <= 1000 else WIDE_ROUNDS)
        cells = [f"{1000 * found[column]:.1f}" for column in columns]
        ratios = [f"{found[slow] / found[fast]:.1f}x" for slow, fast in RATIOS]
        print(f"| {ds}, {dt} | " + " | ".join(cells + ratios) + " |", flush=True)
    retractions(device)


def retractions(device: str) -> None:
    clock = time.perf_counter if device == "cuda" else time.process_time
    print("\n| ds, dt | fixed series | matrix_exp | ratio |")
    print("|---" * 4 + "|")
    for ds, dt in RETRACTED:
        base = random_frame(dt, ds).to(device)
        tangent = 2e-4 * torch.randn_like(base).sign()
        steps = {
            "series": lambda b=base, x=tangent: polish(step_along(b, x)),
            "matrix_exp": lambda b=base, x=tangent: polish(geodesic(b, x)),
        }
        series, exponential = side_by_side(steps, ROUNDS, clock).values()
        cells = f"{1000 * series:.2f} | {1000 * exponential:.2f} | {series / exponential:.2f}"
        print(f"| {ds}, {dt} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
