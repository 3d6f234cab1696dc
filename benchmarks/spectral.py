"""Profiles the spectral norms: python benchmarks/spectral.py [CH ...]

For each network, the operations of one forward and backward of all its norms (views are not
counted; each is at least one kernel on a GPU) and their time; then the time of the trainer's steps
on 50 real and 50 fake images, without distillation. A D step has the forward of both networks'
norms and the backward of the discriminator's; a G step has the forward of both and the backward of
the generator's. On a CPU the time is that of the process, which other processes hardly change.
"""

import sys
import time

import torch
from step import stepper
from timing import machine, side_by_side
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gan_vkd.game.trainer import Trainer
from gan_vkd.networks.biggan import Discriminator, Generator
from gan_vkd.networks.layers import SpectralNorm

ROUNDS, STEP_ROUNDS = 15, 3
CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time


class Operations(TorchDispatchMode):
    """Counts operations that return new storage or change a tensor."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        known = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        new = isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in known
        self.count += new or func._schema.is_mutable
        return result


def forward(network: nn.Module) -> list[torch.Tensor]:
    return [m.normalized_weight() for m in network.modules() if isinstance(m, SpectralNorm)]


def profile(network: nn.Module) -> str:
    """Operations forward and backward, and milliseconds forward and of both."""
    with Operations() as there:
        weights = forward(network)
    gradients = [torch.randn_like(weight) for weight in weights]
    with Operations() as back:
        torch.autograd.backward(weights, gradients)

    def both() -> None:
        network.zero_grad()
        torch.autograd.backward(forward(network), gradients)

    found = side_by_side({"forward": lambda: forward(network), "both": both}, ROUNDS, CLOCK)
    times = " | ".join(f"{1000 * seconds:.1f}" for seconds in found.values())
    return f"{there.count} | {back.count} | {times}"


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{machine()}, medians of {ROUNDS} rounds, of {STEP_ROUNDS} for steps\n")
    print("| ch | of | operations forward | backward | ms forward | ms forward and backward |")
    print("|---" * 6 + "|")
    for ch in [int(argument) for argument in sys.argv[1:]] or [8, 64]:
        torch.manual_seed(0)
        gan = Trainer(Generator(32, ch).to(device), Discriminator(32, ch).to(device))
        for name, network in (("generator", gan.generator), ("discriminator", gan.discriminator)):
            print(f"| {ch} | norms of the {name} | {profile(network)} |", flush=True)
        labels = torch.randint(10, (50,), device=device)
        steps = {"D step": stepper(gan), "G step": lambda: gan.generator_step(labels, 0)}  # noqa: B023
        found = side_by_side(steps, STEP_ROUNDS, CLOCK)
        for name, seconds in found.items():
            print(f"| {ch} | {name} | | | | {1000 * seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
