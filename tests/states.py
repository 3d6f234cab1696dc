"""Comparison of two runs: state of the last checkpoint and records."""

from pathlib import Path
from typing import Any

import torch

from gan_vkd.runtime.checkpoint import load_state
from gan_vkd.runtime.folder import RunFolder

TIMED = ("seconds", "images_per_second", "hours_left", "memory_gib")


def flat(node: Any, name: str = "") -> dict[str, Any]:
    if isinstance(node, dict | list | tuple):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return {k: v for key, value in items for k, v in flat(value, f"{name}/{key}").items()}
    return {name: node}


def differences(a: Path, b: Path) -> list[str]:
    """Returns the keys in which the last checkpoints differ, except times and settings."""
    left, right = (flat(load_state(RunFolder(run).checkpoints()[-1])) for run in (a, b))
    return [
        key
        for key in left | right
        if not key.startswith(("/settings", "/progress/seconds"))
        and not (
            torch.equal(left[key], right[key])
            if isinstance(left.get(key), torch.Tensor) and isinstance(right.get(key), torch.Tensor)
            else left.get(key) == right.get(key)
        )
    ]


def assert_identical(a: Path, b: Path) -> None:
    """Asserts that last checkpoints and records are equal, except times and settings."""
    assert not differences(a, b)
    compared = [
        [{k: v for k, v in record.items() if k not in TIMED} for record in records]
        for records in (RunFolder(run).records("metrics") for run in (a, b))
    ]
    assert compared[0] == compared[1]
