"""Weight files from other projects: read without executing code, and loaded into a network."""

import argparse
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gan_vkd.runtime.checkpoint import is_foreign, load_weights, require_readable
from gan_vkd.runtime.errors import VkdError, one_line
from gan_vkd.runtime.files import write_atomically


def load_foreign(path: Path) -> dict[str, Any]:
    """Reads a torch or safetensors file from an untrusted source.

    Raises:
        VkdError: the file is missing or damaged, or a pickle with more than tensors in it.
    """
    require_readable(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path) if is_foreign(path) else load_weights(path)[0]
        with (
            warnings.catch_warnings(action="ignore"),  # about files that are refused below
            torch.serialization.safe_globals([argparse.Namespace]),  # settings beside weights
        ):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except VkdError:
        raise
    except pickle.UnpicklingError:  # its message advises unsafe unpickling
        raise VkdError(
            f"{path}: not a file of weights (damaged, or a pickle with more than tensors in it)"
        ) from None
    except Exception as error:  # pickle, zip and unpickling errors of many kinds
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise VkdError(f"{path}: not a file of weights ({reason})") from None
    if not isinstance(saved, dict):
        raise VkdError(f"{path}: expected a dictionary of weights, found {type(saved).__name__}")
    return saved


def load_networks(path: Path) -> dict[str, dict[str, Any]]:
    """Reads the networks in a file of a GAN's weights: `generator`, `average`, `discriminator`.

    Names begin with G., G_ema. and D.; a file of other names is the average (EMA) of a generator.
    Of generator and average the one that is missing is the other one.

    Raises:
        VkdError: as `load_foreign`.
    """
    prefixes = {"G": "generator", "G_ema": "average", "D": "discriminator"}
    state = {str(name): value for name, value in load_foreign(path).items()}
    found: dict[str, dict[str, Any]] = {}
    for name, value in state.items():
        prefix, _, rest = name.partition(".")
        if rest and prefix in prefixes:
            found.setdefault(prefixes[prefix], {})[rest] = value
    found = found or {"average": state}
    for name, other in (("generator", "average"), ("average", "generator")):
        if other in found:
            found.setdefault(name, found[other])
    return found


def unwrapped(saved: dict[str, Any]) -> dict[str, Any]:
    """Returns the weights of a training checkpoint, stored under "model" or "state_dict"."""
    for wrapper in ("model", "state_dict"):
        saved = saved.get(wrapper, saved) if isinstance(saved, dict) else {}
    return saved if isinstance(saved, dict) else {}


def fill(network: nn.Module, state: dict[str, Any], where: str) -> None:
    """Loads a state dict; raises an error of one line if it does not fit.

    Raises:
        VkdError: names or shapes differ from the network's, or values are not finite.
    """
    try:
        network.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        reason = lines[1] if len(lines) > 1 else lines[0]
        raise VkdError(f"{where}: weights of another network: {reason[:200]}") from None
    require_finite(network, where)


def require_finite(network: nn.Module, where: object) -> None:
    """Raises an error of one line if loaded weights, buffers included, are not finite.

    Raises:
        VkdError: names the first such tensor and `where` it is from.
    """
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise VkdError(f"{where}: {name} is not finite")


def save_pth(path: Path, content: dict[str, Any] | dict[str, Tensor]) -> None:
    """Writes a torch file through a buffer in memory, so that a full disk raises a VkdError."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))
