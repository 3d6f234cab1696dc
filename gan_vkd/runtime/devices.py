"""The device of a run."""

import os

import torch

from gan_vkd.runtime import ranks
from gan_vkd.runtime.errors import VkdError, one_line


def pick_device(name: str) -> str:
    """Resolves `auto` to the GPU if there is one and `cuda` to this rank's GPU; tests the device.

    Convolutions on GPUs, for which torch allows TF32, are computed in float32 from here on, unless
    a precision (gan_vkd/runtime/precision.py) says otherwise.

    Raises:
        VkdError: torch cannot use the device, or several ranks would share one GPU.
    """
    if name.startswith("cuda:") and ranks.world() > 1:
        raise VkdError(f"device {name}: each rank needs a GPU of its own; set device=cuda")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = ranks.local_device()
    try:
        torch.zeros((), dtype=torch.float64, device=name).item()  # for statistics; MPS has none
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        reason = one_line(error)
        raise VkdError(f"device {name}: not usable here ({reason}); set device=cpu") from None
    torch.backends.cudnn.allow_tf32 = False
    return name


def usable_cores() -> int:
    """The CPU cores that this process may use, which a container may have fewer of."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
