"""Times one step of each projection, forward, backward and SGD: python benchmarks/projection.py

`full` is the published exponential of dt x dt and `thin` the same map in its thin form;
`orthogonal`, this project's default, moves its base instead of differentiating an exponential;
`torch` is torch's parametrizations.orthogonal with its default map. Each step changes the
parameters, so every timed forward computes the matrix anew. Above dt = 1,000, where the published
form takes seconds, three rounds are timed.
"""

import torch
from timing import machine, side_by_side
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

from gan_vkd.distill import PROJECTIONS, retract

WIDTHS = [(256, 512), (192, 768), (256, 2048), (192, 3024), (384, 3024)]
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


if __name__ == "__main__":
    main()
