"""Memory of this machine and process, in bytes. Windows has it from psutil, others from Python."""

import os
import sys
from pathlib import Path

import torch


def total_memory() -> int:
    """Returns the memory of this machine."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    import psutil

    return psutil.virtual_memory().total


def free_memory() -> int:
    """Returns the bytes of memory that this process can still take, without swapping.

    On Linux what the system has available, or less if the control group has a limit; elsewhere half
    of the memory.
    """
    bounds = [total_memory() // 2]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        bounds = [int(fields["MemAvailable"].split()[0]) * 1024]
    limit, used = (Path("/sys/fs/cgroup", f"memory.{name}") for name in ("max", "current"))
    if limit.exists() and (most := limit.read_text().strip()) != "max":
        bounds.append(int(most) - int(used.read_text()))
    return max(min(bounds), 0)


def peak_memory(device: str) -> int:
    """Returns the most that this process has taken: of the GPU, or of the machine on a CPU."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_reserved(device)
    try:
        import resource
    except ImportError:
        import psutil

        return psutil.Process().memory_info().peak_wset
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
