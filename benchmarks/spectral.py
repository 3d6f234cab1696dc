"""Spectral norms one layer at a time and all at once: python benchmarks/spectral.py [CH ...]

For each network, the operations of one forward and backward of all its norms, each at least one
kernel on a GPU (views are not counted), and their time; then the trainer's steps on 50 real and 50
fake images, without distillation, in both ways. On a CPU the time is that of the process, which
other processes hardly change.
"""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from unittest.mock import patch

import torch
from step import stepper
from timing import machine, side_by_side
from torch.utils._python_dispatch import TorchDispatchMode

from gan_vkd.game.trainer import Trainer
from gan_vkd.networks import biggan
from gan_vkd.networks.layers import SpectralNorm, normalized_at_once

ROUNDS, STEP_ROUNDS = 15, 5
CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time


class Operations(TorchDispatchMode):
    """Counts operations that are not views."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        outputs = result if isinstance(result, list | tuple) else [result]
        inputs = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        view = all(
            isinstance(y, torch.Tensor) and y.untyped_storage().data_ptr() in inputs
            for y in outputs
        )
        self.count += not (view and not func._schema.is_mutable and outputs)
        return result


def normalize(network: torch.nn.Module, at_once: bool) -> list[torch.Tensor]:
    with normalized_at_once(network) if at_once else nullcontext():
        return [m.normalized_weight() for m in network.modules() if isinstance(m, SpectralNorm)]


def of_norms(network: torch.nn.Module) -> str:
    """Operations forward and backward, and milliseconds of both, one by one and at once."""
    cells: list[str] = []
    steps: dict[str, Callable[[], None]] = {}
    for at_once in (False, True):
        with Operations() as forward:
            weights = normalize(network, at_once)
        gradients = [torch.randn_like(weight) for weight in weights]
        with Operations() as backward:
            torch.autograd.backward(weights, gradients)

        def step(at_once: bool = at_once, gradients: list[torch.Tensor] = gradients) -> None:
            network.zero_grad()
            torch.autograd.backward(normalize(network, at_once), gradients)

        steps["at once" if at_once else "one by one"] = step
        cells.append(f"{forward.count} + {backward.count}")
    found = side_by_side(steps, ROUNDS, CLOCK)
    return " | ".join([*cells, *(f"{1000 * seconds:.1f}" for seconds in found.values())])


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{machine()}, medians of {ROUNDS} rounds, of {STEP_ROUNDS} for steps\n")
    print("| ch | of | operations, one by one | at once | ms, one by one | at once |")
    print("|---" * 6 + "|")
    for ch in [int(argument) for argument in sys.argv[1:]] or [8, 64]:
        torch.manual_seed(0)
        networks = biggan.Generator(32, ch).to(device), biggan.Discriminator(32, ch).to(device)
        gan = Trainer(*networks)
        for network in networks:
            name = f"norms of the {type(network).__name__.lower()}"
            print(f"| {ch} | {name} | {of_norms(network)} |", flush=True)
        labels = torch.randint(10, (50,), device=device)
        steps = {
            "D step": stepper(gan),
            "G step": lambda gan=gan, y=labels: gan.generator_step(y, 0),
        }
        for name, step in steps.items():

            def one_by_one(step: Callable[[], object] = step) -> None:
                with patch.object(biggan, "normalized_at_once", nullcontext):
                    step()

            found = side_by_side({"one by one": one_by_one, "at once": step}, STEP_ROUNDS, CLOCK)
            times = " | ".join(f"{1000 * seconds:.0f}" for seconds in found.values())
            print(f"| {ch} | {name} | | | {times} |", flush=True)


if __name__ == "__main__":
    main()
