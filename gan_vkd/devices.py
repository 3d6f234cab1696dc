"""Which device a run trains on, and in which precision."""

import torch

from gan_vkd import ranks
from gan_vkd.errors import VkdError, one_line


def pick_device(name: str) -> str:
    """`auto` is the GPU where there is one.

    Raises:
        VkdError: a device that torch does not have.
    """
    if name.startswith("cuda:") and ranks.world() > 1:
        raise VkdError(f"device {name}: each rank takes a GPU of its own; set device=cuda")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = ranks.local_device()
    try:
        torch.zeros((), device=name).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = one_line(error)
        raise VkdError(f"device {name}: not usable here ({reason}); set device=cpu") from None
    return name


def autocast(device: str, precision: str) -> torch.autocast:
    """Within it the device computes in `bfloat16`, or as it is in `float32`."""
    kind = device.partition(":")[0]
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16")
