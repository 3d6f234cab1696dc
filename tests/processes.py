"""Several processes that meet, each with its rank, and what each of them found."""

from typing import Any

import torch


def on_ranks(world: int, target: Any, *args: Any) -> dict[int, Any]:
    """target(rank, world, *args, queue) in each puts (rank, what it found) into the queue."""
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=target, args=(rank, world, *args, queue)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    return found
