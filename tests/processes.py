"""Runs a function in several processes of a process group."""

from typing import Any

import torch


def on_ranks(world: int, target: Any, *args: Any) -> dict[int, Any]:
    """Runs target(rank, world, *args, queue), which queues (rank, result); returns the results."""
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
