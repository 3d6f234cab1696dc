"""Which device a run trains on, and in which precision."""

from functools import cache

import torch

from gan_vkd.runtime import ranks
from gan_vkd.runtime.errors import VkdError, one_line


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
        torch.zeros((), dtype=torch.float64, device=name).item()  # of statistics; MPS has none
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        reason = one_line(error)
        raise VkdError(f"device {name}: not usable here ({reason}); set device=cpu") from None
    return name


def autocast(device: str, precision: str) -> torch.autocast:
    """Within it the device computes in `bfloat16`, where it can, or as it is in `float32`."""
    kind = device.partition(":")[0]
    lowered = precision == "bfloat16" and _is_lowered(kind)
    return torch.autocast(kind, torch.bfloat16, enabled=lowered)


@cache
def _is_lowered(kind: str) -> bool:
    able = has_bfloat16(kind)
    if not able:
        print(f"{kind}: computes in float32, without arithmetic in bfloat16")
    return able


@cache
def has_bfloat16(kind: str) -> bool:
    """Whether the device itself computes in it; torch emulates it elsewhere, which takes longer.

    Of CPUs, those of the x86 family tell.
    """
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return True
