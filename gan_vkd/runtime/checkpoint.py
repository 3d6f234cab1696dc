"""Checkpoint files: nested dictionaries with tensors, in one safetensors file with a checksum.

Tensors are stored as safetensors, everything else (numbers, strings, lists, None) as JSON in the
header, so that reading a file never executes code.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import write_atomically


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a nested dictionary (string or integer keys, lists, tensors, JSON values)."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_strip(state, "", tensors))
    metadata = {"tree": tree, "sha256": digest(tree, tensors)}
    write_atomically(path, lambda file: file.write(save(tensors, metadata)))


def require_readable(path: Path) -> None:
    """Checks that a file is there and may be read, which safetensors does not tell apart.

    Raises:
        VkdError: it is missing, not a regular file, or without permission.
    """
    if not path.is_file():
        raise VkdError(f"{path}: no such file")
    if not os.access(path, os.R_OK):
        raise VkdError(f"{path}: cannot be read (Permission denied)")


def load_state(path: Path) -> dict[str, Any]:
    """Reads a file written by `save_state`; tensors are on the CPU.

    Raises:
        VkdError: the file is missing, unreadable, damaged, truncated or not written by
            `save_state`.
    """
    require_readable(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if digest(metadata["tree"], tensors) != metadata["sha256"]:
            raise VkdError(f"{path}: damaged, its checksum does not match")
        state = _restore(json.loads(metadata["tree"]), tensors)
        if not isinstance(state, dict):
            raise ValueError(f"expected a mapping, found {type(state).__name__}")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise VkdError(f"{path}: damaged, or not a file of this project ({error})") from None
    return state


def save_weights(
    path: Path, state: dict[str, Tensor], facts: dict[str, Any], **metadata: str
) -> None:
    """Writes a network's weights as plain safetensors, with facts and a checksum in the header."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    text = json.dumps(facts)
    metadata |= {"facts": text, "sha256": digest(text, tensors)}
    write_atomically(path, lambda file: file.write(save(tensors, metadata)))


def is_foreign(path: Path) -> bool:
    """Returns whether a safetensors file was not written by `save_weights`."""
    with safe_open(path, "pt") as file:
        return not {"facts", "sha256"} <= (file.metadata() or {}).keys()


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a file written by `save_weights`: the weights, on the CPU, and the facts.

    Raises:
        VkdError: the file is missing, unreadable, damaged, truncated or not written by
            `save_weights`.
    """
    require_readable(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if metadata["sha256"] != digest(metadata["facts"], state):
            raise ValueError("its checksum does not match")
        return state, json.loads(metadata["facts"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise VkdError(f"{path}: damaged, or not a file of this project ({error})") from None


def _strip(node: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, Tensor):
        name = f"{len(tensors)}{name}"  # the number distinguishes {1: ...} from {"1": ...}
        tensors[name] = node.detach().cpu().contiguous().clone()
        return {"$tensor": name}
    if isinstance(node, dict):
        pairs = [[key, _strip(value, f"{name}/{key}", tensors)] for key, value in node.items()]
        return {"$dict": pairs}
    if isinstance(node, list | tuple):
        return [_strip(value, f"{name}/{i}", tensors) for i, value in enumerate(node)]
    return node


def _restore(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_restore(value, tensors) for value in node]
    if not isinstance(node, dict):
        return node
    if "$tensor" in node:
        return tensors[node["$tensor"]]
    return {key: _restore(value, tensors) for key, value in node["$dict"]}


def digest(text: str, tensors: dict[str, Tensor]) -> str:
    """Returns the SHA-256 of a text and CPU tensors with their names, dtypes and shapes."""
    sha256 = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha256.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return sha256.hexdigest()
