"""Where the time of a step goes, beside the least that it could take: python benchmarks/floor.py

The published trainer's steps in float32 (published_step.py) and ours in float32 and bfloat16, on
configs/cifar10_10pct.yaml without distillation, one thread on a CPU. The floor of a step is

- operations: those of its convolutions and matrix products (torch.utils.flop_counter) over the
  rate of a large matrix product or of a large 3x3 convolution in the same precision, whichever is
  higher;
- bytes: the tensors that all other operations read and write, each once and without views, over
  the rate of copying a large tensor.

Steps and both rates are timed in the same interleaved rounds: on a CPU the process's own time, so
that other work beside it counts less.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import published_step
import torch
import torch.nn.functional as F
from precision import CONFIG, PRECISIONS, top_ten
from timing import machine, side_by_side
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gan_vkd.data.batches import Batch
from gan_vkd.game.build import build_trainer
from gan_vkd.game.settings import load_settings
from gan_vkd.report.tables import markdown

Steps = dict[str, Callable[[], object]]

# Of the rates: side of the product, images and channels of the convolution, numbers that are copied
SIZES = {"cpu": (1024, 8, 256, 2**24), "cuda": (8192, 256, 512, 2**28)}
CALLS = 10  # of a rate in a round
PRODUCTS = ("convolution", "mm", "addmm", "bmm", "baddbmm")  # parts of their operations' names


class Bytes(TorchDispatchMode):
    """Counts the bytes that operations read and write, except views and products."""

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        is_view = any(x.alias_info and not x.alias_info.is_write for x in func._schema.returns)
        if not is_view and not any(part in name for part in PRODUCTS):
            tensors = tree_leaves((args, kwargs, result))
            self.total += sum(x.nbytes for x in tensors if isinstance(x, torch.Tensor))
        return result


def rates_of(device: str) -> tuple[Steps, dict[str, float]]:
    """Calls that show the device's rates, and the 1e9 operations or bytes of each."""
    side, images, channels, numbers = SIZES[device]
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    calls: Steps = {"copy": lambda: target.copy_(source)}
    work = {"copy": 2e-9 * source.nbytes}
    for name in PRECISIONS:
        kind = {"device": device, "dtype": getattr(torch, name)}
        a, b = (torch.randn(side, side, **kind) for _ in range(2))
        x = torch.randn(images, channels, 16, 16, **kind).to(memory_format=torch.channels_last)
        weight = torch.randn(channels, channels, 3, 3, **kind).to(memory_format=torch.channels_last)
        calls[f"{name} product"] = partial(torch.mm, a, b)
        calls[f"{name} convolution"] = partial(F.conv2d, x, weight, padding=1)
        work[f"{name} product"] = 2e-9 * side**3
        work[f"{name} convolution"] = 2e-9 * images * 16**2 * 9 * channels**2
    return {name: partial(repeat, call) for name, call in calls.items()}, work


def repeat(call: Callable[[], object]) -> None:
    for _ in range(CALLS):
        call()


def steps_of(ch: int, size: int, precision: str, device: str) -> Steps:
    """The two steps of our trainer, or of the published one."""
    torch.manual_seed(0)
    labels = torch.randint(10, (size,), device=device)
    images = torch.rand(size, 3, 32, 32, device=device) * 2 - 1
    batch = Batch(images, labels, labels, labels < 5)
    if precision == "published":
        theirs = published_step.build(ch, 128, 10, device)
        return {
            "D": lambda: theirs.discriminator_step(batch, labels),
            "G": lambda: theirs.generator_step(labels, 0),
        }
    settings = load_settings(CONFIG, [f"model.ch={ch}", f"train.precision={precision}"])
    trainer = build_trainer(settings, 10, device)
    return {
        "D": lambda: trainer.discriminator_step(batch, labels, 0),
        "G": lambda: trainer.generator_step(labels, 0),
    }


def counted(step: Callable[[], object]) -> tuple[float, float]:
    """Operations of a step in 1e9, and gigabytes of what is no product."""
    with FlopCounterMode(display=False) as operations, Bytes() as moved:
        step()
    return operations.get_total_flops() / 1e9, moved.total / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ch", type=int, default=64, help="the width; published: 64")
    parser.add_argument("--batch", type=int, default=50, help="real, and as many fake, images")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = False
    if device == "cpu":
        torch.set_num_threads(1)
    rates, work = rates_of(device)
    steps = {
        (name, kind): step
        for name in ("published", *PRECISIONS)
        for kind, step in steps_of(given.ch, given.batch, name, device).items()
    }
    found = side_by_side(
        rates | {" ".join(key): step for key, step in steps.items()}, given.rounds,
        time.perf_counter if device == "cuda" else time.process_time,
    )  # fmt: skip
    speed = {name: CALLS * amount / found[name] for name, amount in work.items()}
    rate = {p: max(speed[f"{p} product"], speed[f"{p} convolution"]) for p in PRECISIONS}
    rows, tops = [], []
    for (name, kind), step in steps.items():
        operations, moved = counted(step)
        took = found[f"{name} {kind}"]
        least = operations / rate["float32" if name == "published" else name], moved / speed["copy"]
        rows.append(
            {
                "step": f"{kind}, {name if name == 'published' else f'ours, {name}'}",
                "ms": f"{1000 * took:.0f}",
                "10^9 operations": f"{operations:.1f}",
                "their floor, ms": f"{1000 * least[0]:.0f}",
                "GB beside them": f"{moved:.2f}",
                "its floor, ms ": f"{1000 * least[1]:.0f}",
                "both floors": f"{100 * sum(least) / took:.0f}%",
                "rest, ms": f"{1000 * (took - sum(least)):.0f}",
            }
        )
        shares = ", ".join(f"{op} {share:.1%}" for op, share in top_ten(step, 1))
        tops.append(f"{rows[-1]['step']}: {shares}")
    print(f"ch {given.ch}, batch {given.batch} + {given.batch}, median of {given.rounds} rounds")
    print(f"{machine()}\nRates in GFLOP/s, copying in GB/s: ", end="")
    print(", ".join(f"{name} {value:.0f}" for name, value in speed.items()) + "\n")
    print(markdown(rows))
    print("\n" + "\n\n".join(tops))


if __name__ == "__main__":
    main()
