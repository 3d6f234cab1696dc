"""Where the time of a step goes, beside the least that it could take: python benchmarks/floor.py

The published trainer's steps in float32 (published_step.py) and ours in float32 and bfloat16, on
configs/cifar10_10pct.yaml without distillation, one thread on a CPU. The floor of a step is

- operations: those of its convolutions and matrix products (torch.utils.flop_counter) over the
  rate of a large matrix product in the same precision;
- bytes: the tensors that all other operations read and write, each once and without views, over
  the rate of copying a large tensor.

Steps and both rates are timed in the same interleaved rounds: on a CPU the process's own time, so
that other work beside it counts less.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import published_step
import torch
from precision import CONFIG, top_ten
from timing import machine, side_by_side
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gan_vkd.data.batches import Batch
from gan_vkd.game.build import build_trainer
from gan_vkd.game.settings import load_settings
from gan_vkd.report.tables import markdown

Steps = dict[str, Callable[[], object]]

MATRIX, COPIED = 1024, 2**24  # side of the product on a CPU; numbers that are copied
ON_GPU = 8192  # side of the product there
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
    side = MATRIX if device == "cpu" else ON_GPU
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    source, lower = torch.randn(COPIED, device=device), (a.bfloat16(), b.bfloat16())
    target = torch.empty_like(source)
    rates: Steps = {
        "float32": lambda: a @ b,
        "bfloat16": lambda: lower[0] @ lower[1],
        "copy": lambda: target.copy_(source),
    }
    steps = {
        (name, kind): step
        for name in ("published", "float32", "bfloat16")
        for kind, step in steps_of(given.ch, given.batch, name, device).items()
    }
    found = side_by_side(
        rates | {" ".join(key): step for key, step in steps.items()}, given.rounds,
        time.perf_counter if device == "cuda" else time.process_time,
    )  # fmt: skip
    rate = {name: 2e-9 * side**3 / found[name] for name in ("float32", "bfloat16")}
    copied = 2e-9 * source.nbytes / found["copy"]
    rows, tops = [], []
    for (name, kind), step in steps.items():
        operations, moved = counted(step)
        took = found[f"{name} {kind}"]
        least = operations / rate["float32" if name == "published" else name], moved / copied
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
        shares = ", ".join(f"{op} {share:.1%}" for op, share in top_ten(step))
        tops.append(f"{rows[-1]['step']}: {shares}")
    print(f"ch {given.ch}, batch {given.batch} + {given.batch}, median of {given.rounds} rounds")
    print(f"{machine()}; products of {side} x {side} matrices: {rate['float32']:.0f} GFLOP/s in")
    print(f"float32, {rate['bfloat16']:.0f} in bfloat16; copying: {copied:.1f} GB/s\n")
    print(markdown(rows))
    print("\n" + "\n\n".join(tops))


if __name__ == "__main__":
    main()
