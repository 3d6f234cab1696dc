"""Device and precision of a run."""

from functools import cache

import torch

from gan_vkd.runtime import ranks
from gan_vkd.runtime.errors import VkdError, one_line


def pick_device(name: str) -> str:
    """Resolves `auto` to the GPU if there is one and `cuda` to this rank's GPU; tests the device.

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
    return name


def autocast(device: str, precision: str) -> torch.autocast:
    """Returns an autocast context, enabled for `bfloat16` on devices with bfloat16 arithmetic."""
    kind = device.partition(":")[0]
    enabled = precision == "bfloat16" and _supports_bfloat16(kind)
    return torch.autocast(kind, torch.bfloat16, enabled=enabled)


@cache
def _supports_bfloat16(kind: str) -> bool:
    supported = has_bfloat16(kind)
    if not supported:
        print(f"{kind}: no bfloat16 arithmetic, computing in float32")
    return supported


@cache
def has_bfloat16(kind: str) -> bool:
    """Returns whether the device has bfloat16 arithmetic; emulation by torch is slower.

    Among CPUs only x86 models can be detected; others count as without.
    """
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return True
