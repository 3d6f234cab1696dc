"""Training on several ranks: process group, each rank's share of a batch, collective operations.

Started by torchrun, each of W ranks holds 1/W of every batch. Every rank draws the random numbers
of the whole batch, from generators in equal states, and keeps its own rows; means, batch norm,
whitening and gradients are taken over all ranks. So W ranks compute what one computes on the whole
batch, up to rounding. Without torchrun there is one rank, and nothing here communicates.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gan_vkd.runtime.across import mean as mean
from gan_vkd.runtime.across import total as total
from gan_vkd.runtime.across import world as world
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.stopping import Stopped

T = TypeVar("T")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Returns whether this is rank 0, which writes files and prints."""
    return rank() == 0


def launched() -> bool:
    """Returns whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def joined() -> Iterator[None]:
    """Joins the process group if torchrun started this process; only rank 0 prints within it.

    Raises:
        VkdError: the ranks cannot connect, or another one was lost.
    """
    if not launched() or dist.is_initialized():
        yield
        return
    try:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, **_store())
        try:
            with nullcontext() if is_first() else redirect_stdout(StringIO()):
                yield
        except Stopped:  # raised on all ranks
            _leave()
            raise
        _leave()  # not after an error: it would wait for a rank that is stuck
    except (dist.DistError, RuntimeError) as error:
        reason = str(error).partition("\n")[0][:200]
        if not isinstance(error, dist.DistError) and not _lost(reason):
            raise
        raise VkdError(
            f"rank {os.environ.get('RANK')}: another rank was lost ({reason}); start again with "
            "--resume, or let torchrun do it (--max-restarts)"
        ) from None


def _leave() -> None:
    """Leaves the process group once all ranks are done, since torchrun takes an earlier lost
    connection for a failure."""
    dist.barrier()
    dist.destroy_process_group()


def _store() -> dict[str, Any]:
    """Returns arguments of init_process_group: torchrun's store with a prefix for each restart,
    since it still holds the addresses of the lost ranks (pytorch/pytorch#135712)."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}  # a new store after every restart: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    store, rank, world = next(dist.rendezvous("env://", timeout=timedelta(minutes=10)))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return {
        "store": dist.PrefixStore(f"attempt {attempt}", store),
        "rank": rank,
        "world_size": world,
    }


def _lost(reason: str) -> bool:
    return any(word in reason.lower() for word in ("gloo", "nccl error", "connection closed"))


def local_device() -> str:
    """Returns this rank's GPU on its machine."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if world() > 1 else "cuda"


# Each rank's share


def own_rows(draw: Callable[[int], Tensor], count: int) -> Tensor:
    """Draws random rows for the whole batch and returns this rank's `count` of them."""
    return draw(count * world())[rank() * count : (rank() + 1) * count]


def own_part(count: int) -> slice:
    """Returns this rank's slice of `count` items, which need not be divisible by the ranks."""
    return slice(count * rank() // world(), count * (rank() + 1) // world())


# Collective operations on tensors


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient.chunk(world())[rank()]


def gather(x: Tensor) -> Tensor:
    """Returns the rows (B, ...) of all ranks in rank order, on every rank; differentiable."""
    return _Gather.apply(x) if world() > 1 else x


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replaces the gradients by their means over ranks, in one all-reduce."""
    average([p.grad for p in parameters if p.grad is not None])


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replaces the tensors by their means over ranks, in one all-reduce."""
    if world() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world()
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


# Collective operations on the CPU


def largest(value: int) -> int:
    """Returns the largest of the ranks' values."""
    if world() == 1:
        return value
    one = torch.tensor(value)
    dist.all_reduce(one, dist.ReduceOp.MAX)
    return int(one)


def from_first(compute: Callable[[], T]) -> T:
    """Returns the result of rank 0 on every rank; tensors in it should be on the CPU."""
    if world() == 1:
        return compute()
    box = [compute() if is_first() else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[return-value]


def all_parts(part: T) -> list[T]:
    """Returns the objects of all ranks in rank order, on every rank."""
    if world() == 1:
        return [part]
    parts: list[T] = [part] * world()
    dist.all_gather_object(parts, part)
    return parts


def require_alike(facts: Callable[[], object], where: Path) -> None:
    """Raises VkdError if ranks have read different data, such as settings or images.

    Training would hide it, since averaged gradients keep the weights equal.
    """
    if world() > 1 and len({repr(part) for part in all_parts(facts())}) > 1:
        raise VkdError(f"{where}: the ranks have read different settings or images")


@contextmanager
def one_first_on_each_machine() -> Iterator[None]:
    """Runs the body on the first rank of a machine before the others, e.g. for downloads."""
    follows = world() > 1 and os.environ.get("LOCAL_RANK", "0") != "0"
    if follows:
        dist.barrier()
    yield
    if world() > 1 and not follows:
        dist.barrier()
