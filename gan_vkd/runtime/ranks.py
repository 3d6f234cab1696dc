"""Several processes that train as one: what one rank sees and draws, and what all of them agree on.

Started by torchrun, W ranks hold a W-th of every batch each. Random numbers are drawn for the whole
batch on every rank, from generators that stay in step, and each keeps its rows; means, batch norm,
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

from gan_vkd.runtime.across import sum_over_ranks
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.stopping import Stopped

T = TypeVar("T")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this rank writes files and speaks."""
    return rank() == 0


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def joined() -> Iterator[None]:
    """Within it the process is one of the ranks, where torchrun started it; the first speaks.

    Raises:
        VkdError: the ranks cannot meet, or another one was lost.
    """
    if not launched() or dist.is_initialized():
        yield
        return
    try:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, **_meeting_place())
        try:
            with nullcontext() if is_first() else redirect_stdout(StringIO()):
                yield
        except Stopped:  # of all ranks together
            _take_leave()
            raise
        _take_leave()  # not after an error: a rank that is stuck would be waited for
    except (dist.DistError, RuntimeError) as error:
        reason = str(error).partition("\n")[0][:200]
        if not isinstance(error, dist.DistError) and not _lost(reason):
            raise
        raise VkdError(
            f"rank {os.environ.get('RANK')}: another rank was lost ({reason}); start again with "
            "--resume, or let torchrun do it (--max-restarts)"
        ) from None


def _take_leave() -> None:
    """None goes before the others are done: torchrun would take a lost connection for a failure."""
    dist.barrier()
    dist.destroy_process_group()


def _meeting_place() -> dict[str, Any]:
    """torchrun's store, under a name of its own after a restart: it still has the addresses that
    the lost ranks left there (pytorch/pytorch#135712)."""
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
    """The GPU of this rank on its machine."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if world() > 1 else "cuda"


# What each rank sees


def own_rows(draw: Callable[[int], Tensor], count: int) -> Tensor:
    """This rank's `count` rows of what one process draws for the whole batch."""
    return draw(count * world())[rank() * count : (rank() + 1) * count]


def own_part(count: int) -> slice:
    """This rank's part of `count` things, which need not be a multiple of the ranks."""
    return slice(count * rank() // world(), count * (rank() + 1) // world())


# What all ranks compute together


def total(x: Tensor) -> Tensor:
    """The sum over ranks of a tensor, differentiable."""
    return sum_over_ranks(x)


def mean(x: Tensor) -> Tensor:
    """The mean over ranks of a tensor, differentiable."""
    return total(x) / world()


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
    """The rows (B, ...) of all ranks, in their order, on every rank; differentiable."""
    return _Gather.apply(x) if world() > 1 else x


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replaces the gradients by their means over ranks, in one message."""
    average([p.grad for p in parameters if p.grad is not None])


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replaces the tensors by their means over ranks, in one message."""
    if world() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world()
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


# What all ranks agree on, without the accelerator


def largest(value: int) -> int:
    """The largest of the ranks' numbers."""
    if world() == 1:
        return value
    one = torch.tensor(value)
    dist.all_reduce(one, dist.ReduceOp.MAX)
    return int(one)


def from_first(compute: Callable[[], T]) -> T:
    """What rank 0 computes, on every rank; tensors in it should lie on the CPU."""
    if world() == 1:
        return compute()
    box = [compute() if is_first() else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[return-value]


def all_parts(part: T) -> list[T]:
    """The ranks' objects, in their order, on every rank."""
    if world() == 1:
        return [part]
    parts: list[T] = [part] * world()
    dist.all_gather_object(parts, part)
    return parts


def require_alike(facts: Callable[[], object], where: Path) -> None:
    """Refuses ranks that have not read the same, such as settings and images.

    Averages would hide it: their weights stay equal.
    """
    if world() > 1 and len({repr(part) for part in all_parts(facts())}) > 1:
        raise VkdError(f"{where}: the ranks have read other settings or other images")


@contextmanager
def one_first_on_each_machine() -> Iterator[None]:
    """The other ranks of a machine follow when its first has what it needs, such as downloads."""
    follows = world() > 1 and os.environ.get("LOCAL_RANK", "0") != "0"
    if follows:
        dist.barrier()
    yield
    if world() > 1 and not follows:
        dist.barrier()
