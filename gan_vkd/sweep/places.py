"""Where the runs of a sweep are started: the visible GPUs, or the whole machine."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from gan_vkd.runtime.errors import VkdError
from gan_vkd.sweep import mps
from gan_vkd.sweep.plan import Job

AUTO = 4  # runs at once on a GPU with MPS, at most; `benchmarks/gpu.sh` measures 1, 2 and 4
SPARE = 1.5  # free memory that a further run needs, relative to what the others take on average


@dataclass
class Place:
    """A GPU or the whole machine, with the runs on it.

    most: runs at once, at most. environment: variables of its runs.
    by_memory: a further run is started only once the latest trains, and if its memory suffices.
    """

    most: int
    environment: dict[str, str] = field(default_factory=dict)
    by_memory: bool = False
    _runs: list[tuple[Job, float]] = field(default_factory=list)
    _full: bool = False  # as far as memory is concerned

    @property
    def running(self) -> int:
        return len(self._runs)

    def has_room(self) -> bool:
        """Returns whether a further run can be started now."""
        if not self._runs or not self.by_memory or self.running >= self.most:
            return self.running < self.most
        if self._full or not _trains(*self._runs[-1]):
            return False
        free, total = _memory(self.environment)
        self._full = free < SPARE * (total - free) / self.running
        return not self._full

    def add(self, job: Job) -> None:
        self._runs.append((job, time.time()))

    def remove(self, job: Job) -> None:
        self._runs = [run for run in self._runs if run[0] != job]
        self._full = False


@contextmanager
def places(jobs: int | None, runs: list[Job]) -> Iterator[list[Place]]:
    """The places of a sweep's runs; MPS serves GPUs with several of them until the context ends.

    Args:
        jobs: number of runs at once, split evenly among the GPUs; None, "auto": as many as are
            likely to pay: on GPUs with MPS up to AUTO each, by memory, on others one each, without
            GPUs one.
        runs: those that will be started.
    """
    on_gpus = runs and all(job.device in ("auto", "cuda") for job in runs)
    gpus = visible_gpus() if on_gpus else []
    if not gpus:
        yield [Place(jobs or 1)]
        return
    total = min(jobs or AUTO * len(gpus), len(runs))
    counts = [total // len(gpus) + (k < total % len(gpus)) for k in range(len(gpus))]
    with ExitStack() as stack:
        found = []
        for gpu, count in zip(gpus, counts, strict=True):
            variables = {"CUDA_VISIBLE_DEVICES": gpu} if len(gpus) > 1 else {}
            if count > 1:
                try:
                    variables = _shared(gpu, variables, stack)
                except VkdError as error:
                    print(f"GPU {gpu}: without CUDA MPS, since {error}", flush=True)
                    count = 1 if jobs is None else count
            if count:
                found.append(Place(count, variables, by_memory=jobs is None))
        yield found


def _shared(gpu: str, variables: dict[str, str], stack: ExitStack) -> dict[str, str]:
    """Variables of processes that share a GPU by MPS: by the user's daemon, or by one of the stack.

    Raises:
        VkdError: it cannot be used.
    """
    if mps.runs_already():
        return variables
    folder = stack.enter_context(TemporaryDirectory(prefix="vkd-mps-", ignore_cleanup_errors=True))
    variables = stack.enter_context(mps.served(gpu, Path(folder)))
    print(f"GPU {gpu}: CUDA MPS started, pipes and logs in {folder}", flush=True)
    return variables


def visible_gpus() -> list[str]:
    """Returns the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count()  # does not initialise CUDA, which MPS must precede
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    every = [str(index) for index in range(count)] if named is None else named.split(",")
    return [gpu.strip() for gpu in every][:count]


def _trains(job: Job, since: float) -> bool:
    """Whether the run has written a record since: by then it has taken most of its memory."""
    try:
        return (job.folder / "metrics.jsonl").stat().st_mtime > since
    except OSError:
        return False


def _memory(environment: dict[str, str]) -> tuple[int, int]:
    """Free and total bytes of the GPU, as a run there sees it; (0, 1) if that cannot be known."""
    asked = [sys.executable, "-c", "import torch; print(*torch.cuda.mem_get_info())"]
    try:
        said = subprocess.run(
            asked, env=os.environ | environment, capture_output=True, text=True, timeout=60
        ).stdout
        free, total = map(int, said.split())
    except (subprocess.SubprocessError, OSError, ValueError):
        return 0, 1
    return free, total
