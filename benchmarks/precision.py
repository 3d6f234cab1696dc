"""Times training in float32 and bfloat16 on a CPU: python benchmarks/precision.py --ch 8

The steps of discriminator and generator of configs/cifar10_10pct.yaml at a width (50 real and 50
fake images), as they are, with the networks' default layout in place of channels-last, and of the
published trainer in float32 (published_step.py); the forward of two teachers on 50 images; and
where the time goes in a step in bfloat16. All alternatives are timed in interleaved rounds, on
torch's number of threads (OMP_NUM_THREADS).
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import published_step
import timm
import torch
from timing import machine, side_by_side
from torch.profiler import ProfilerActivity, profile

from gan_vkd.data.batches import Batch
from gan_vkd.distill import Teacher
from gan_vkd.game.build import build_trainer
from gan_vkd.game.settings import load_settings
from gan_vkd.game.trainer import Trainer
from gan_vkd.networks.cifar_resnet import CifarResNet
from gan_vkd.runtime.precision import autocast

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "cifar10_10pct.yaml"
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
PRECISIONS = ("float32", "bfloat16")
PROFILED = 3  # steps
LAYOUTS = {"channels-last": torch.channels_last, "default layout": torch.contiguous_format}

Steps = dict[str, Callable[[], object]]


def steps_of(ch: int, precision: str, layout: torch.memory_format) -> Steps:
    """The two steps of a trainer."""
    torch.manual_seed(0)
    overrides = [f"model.ch={ch}", f"train.precision={precision}"]
    trainer: Trainer = build_trainer(load_settings(CONFIG, overrides), 10, "cpu")
    for network in (trainer.generator, trainer.discriminator):
        network.to(memory_format=layout)
    batch = random_batch()
    return {
        "D step": lambda: trainer.discriminator_step(batch, batch.labels, 0),
        "G step": lambda: trainer.generator_step(batch.labels, 0),
    }


def published_steps(ch: int) -> Steps:
    """The two steps of the published trainer."""
    theirs, batch = published_step.build(ch, 128, 10, "cpu"), random_batch()
    return {
        "D step": lambda: theirs.discriminator_step(batch, batch.labels),
        "G step": lambda: theirs.generator_step(batch.labels, 0),
    }


def random_batch() -> Batch:
    labels = torch.randint(10, (50,))
    return Batch(torch.rand(50, 3, 32, 32) * 2 - 1, labels, labels, labels < 5)


def teachers() -> dict[str, Teacher]:
    """Teachers with random weights."""
    lite = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    return {
        "teacher EfficientNet-Lite 0 at 96 pixels": Teacher(lite, **HALF, size=(96, 96)),
        "teacher ResNet-56 at 32 pixels": Teacher(CifarResNet(56, 10), **HALF),
    }


@torch.no_grad()
def look(teacher: Teacher, images: torch.Tensor, precision: str) -> None:
    with autocast("cpu", precision):
        teacher(images)


def top_ten(step: Callable[[], object], calls: int = PROFILED) -> list[tuple[str, float]]:
    """The operations with the largest shares of a step's time."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for _ in range(calls):
            step()
    found = recorded.key_averages()
    total = sum(event.self_cpu_time_total for event in found)
    first = sorted(found, key=lambda event: -event.self_cpu_time_total)[:10]
    return [(event.key, event.self_cpu_time_total / total) for event in first]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ch", type=int, default=8, help="the width; published: 64")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    alternatives: Steps = {}
    for layout, form in LAYOUTS.items():
        for precision in PRECISIONS:
            for step, call in steps_of(given.ch, precision, form).items():
                alternatives[f"{step}, {layout}: {precision}"] = call
    images = torch.rand(50, 3, 32, 32) * 2 - 1
    for name, teacher in teachers().items():
        for precision in PRECISIONS:
            alternatives[f"{name}: {precision}"] = partial(look, teacher, images, precision)
    theirs = published_steps(given.ch)
    found = side_by_side(
        alternatives | {f"published {step}": call for step, call in theirs.items()}, given.rounds
    )
    print(f"ch {given.ch}, batch 50, ms, median of {given.rounds} rounds")
    print(f"{machine()}\n")
    print("| | float32 | bfloat16 | ratio |")
    print("|---|---|---|---|")
    for name in dict.fromkeys(name.rpartition(":")[0] for name in alternatives):
        full, lowered = (1000 * found[f"{name}: {precision}"] for precision in PRECISIONS)
        print(f"| {name} | {full:.1f} | {lowered:.1f} | {lowered / full:.2f} |")
    print()
    for step in theirs:
        before = found[f"published {step}"]
        ours = (found[f"{step}, channels-last: {precision}"] / before for precision in PRECISIONS)
        print(
            "Published {} in float32: {:.1f} ms; ours over it: {:.2f} in float32, {:.2f} in "
            "bfloat16".format(step, 1000 * before, *ours)
        )
    for step in theirs:
        parts = top_ten(alternatives[f"{step}, channels-last: bfloat16"])
        print(f"\n{step} in bfloat16: " + ", ".join(f"{name} {share:.1%}" for name, share in parts))


if __name__ == "__main__":
    main()
