"""Counts the messages between ranks in one iteration: python benchmarks/communication.py

Two gloo ranks take one discriminator and one generator step of cifar10_10pct+methods/whitening
(ch 64, 50 real and 50 fake images in total, 256 features to a teacher of 512 whose forward is left
out). The last table applies the usual model of a ring, 2 (W - 1) / W bytes / bandwidth + 2 log2(W)
latency per message, to assumed links and an assumed time of computation; docs/scaling.md discusses
the result.
"""

import math
import tempfile
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from step import CONFIGS, DT, KnownTeacher

from gan_vkd.data.batches import Batch
from gan_vkd.game.build import build_trainer
from gan_vkd.game.settings import load_settings

# name, ranks, bytes per second of a rank's slowest link, latency of a hop in seconds
LINKS = [
    ("5 GPUs of one machine (NVLink)", 5, 200e9, 10e-6),
    ("50 GPUs, 10 machines (400 Gb/s)", 50, 50e9, 20e-6),
    ("512 GPUs, 64 machines (400 Gb/s)", 512, 50e9, 20e-6),
    ("5 machines (10 Gb/s)", 5, 1.25e9, 50e-6),
]
COMPUTATION = 0.1  # assumed seconds of an iteration on one GPU with the whole batch


def _count(rank: int, world: int, file: str, queue) -> None:
    dist.init_process_group("gloo", f"file://{file}", rank=rank, world_size=world)
    sent: dict[str, Counter[tuple[str, int]]] = {}
    phase = ["set-up"]
    for name in ("all_reduce", "all_gather"):
        send = getattr(dist, name)

        def counted(*args, _send=send, _name=name, **kwargs):
            tensor = args[-1] if _name == "all_gather" else args[0]
            key = (f"{_name} of {str(tensor.dtype)[6:]}", tensor.numel() * tensor.element_size())
            sent.setdefault(phase[0], Counter())[key] += 1
            return _send(*args, **kwargs)

        setattr(dist, name, counted)
    settings = load_settings(CONFIGS / "cifar10_10pct+methods/whitening")
    torch.manual_seed(0)
    gan = build_trainer(settings, 10, "cpu", KnownTeacher("cpu"))
    size = settings.train.batch_size // world
    images, labels = torch.rand(size, 3, 32, 32) * 2 - 1, torch.arange(size) % 10
    batch = Batch(images, labels, labels, torch.zeros(size, dtype=torch.bool))
    phase[0] = "discriminator step"
    gan.discriminator_step(batch, labels, 0)
    phase[0] = "generator step"
    gan.generator_step(labels, 0)
    if rank == 0:
        queue.put((settings.train.d_steps, sent))
    dist.destroy_process_group()


def main() -> None:
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "meet")
        ranks = [context.Process(target=_count, args=(r, 2, file, queue)) for r in range(2)]
        for process in ranks:
            process.start()
        d_steps, sent = queue.get()
        for process in ranks:
            process.join()

    print(f"teacher of {DT}, {d_steps} discriminator steps an iteration\n")
    print("| step | message | bytes | count |\n|---|---|---|---|")
    messages: list[tuple[int, int]] = []
    for step in ("discriminator step", "generator step"):
        times = d_steps if step.startswith("d") else 1
        small = Counter(sent[step])
        for (name, size), count in sorted(small.items(), key=lambda item: -item[0][1]):
            if size >= 100_000:
                print(f"| {step} | {name} | {size:,} | {count} |")
            messages.append((size, count * times))
        few = [(s, c) for (_, s), c in small.items() if s < 100_000]
        total, number = sum(s * c for s, c in few), sum(c for _, c in few)
        print(f"| {step} | all below 100,000 bytes | {total:,} in total | {number} |")
    messages.append((8, 1))  # whether to stop
    total = sum(size * count for size, count in messages)
    number = sum(count for _, count in messages)
    print(f"\nan iteration: {total / 1e6:.1f} MB in {number} messages\n")
    print(
        "| ranks | communication, ms | latency part, ms | speed-up, 50 images in total | "
        "efficiency, 50 images per rank |\n|---|---|---|---|---|"
    )
    for name, world, bandwidth, latency in LINKS:
        waiting = number * 2 * math.log2(world) * latency
        sending = 2 * (world - 1) / world * total / bandwidth + waiting
        shared = f"{COMPUTATION / (COMPUTATION / world + sending):.1f}" if 50 % world == 0 else "-"
        print(
            f"| {name} | {1e3 * sending:.1f} | {1e3 * waiting:.1f} | {shared} | "
            f"{COMPUTATION / (COMPUTATION + sending):.0%} |"
        )


if __name__ == "__main__":
    main()
