"""Files of weights, of this project and of others."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from gan_vkd.networks.weights import unwrapped
from gan_vkd.runtime.checkpoint import is_foreign
from gan_vkd.runtime.errors import VkdError


def has_facts(file: Path) -> bool:
    """Whether this project exported a file, with the facts needed to build its network.

    A damaged safetensors file counts as one: `load_weights` says what is wrong with it.
    """
    try:
        return file.suffix == ".safetensors" and not is_foreign(file)
    except (SafetensorError, OSError):
        return True


def named_tensors(saved: dict[str, Any], where: object) -> dict[str, Tensor]:
    """The weights in a file of `load_foreign`, without the wrappers of training code.

    These are the keys "student", "model" and "state_dict", and the prefix "module." of
    DistributedDataParallel.

    Raises:
        VkdError: they are not tensors by name.
    """
    inside = unwrapped(saved)
    inside = inside.get("student", inside)
    state = unwrapped(inside) if isinstance(inside, dict) else {}
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()) or not state:
        raise VkdError(f"{where}: not a network's weights (named tensors)")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}
