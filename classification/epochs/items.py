"""Examples, the seeds of their random numbers, and files that cannot be used."""

import hashlib
import random
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gan_vkd.runtime.errors import VkdError


def seed_of(*key: Any) -> int:
    """A seed that is a function of the key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "big")


def seed_generators(*key: Any) -> None:
    """Seeds Python's, NumPy's and torch's generators as a function of the key."""
    seed = seed_of(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # otherwise the call is queued with its stack trace
        torch.cuda.manual_seed_all(seed)


class Faults:
    """Handles files that cannot be used: raises an error that names them, or reports each once.

    Args:
        damaged: the setting data.damaged, refuse or skip.
    """

    def __init__(self, damaged: str) -> None:
        self.damaged, self.reported = damaged, set[str]()

    def report(self, faults: Iterable[str]) -> None:
        """Prints new faults; with data.damaged=refuse raises VkdError if there are any."""
        found = list(dict.fromkeys(faults))
        if found and self.damaged == "refuse":
            raise VkdError(
                f"cannot be used: {'; '.join(found[:5])}. Repair or remove them, or set "
                "data.damaged=skip; continue with --resume"
            )
        for fault in found:
            if fault not in self.reported:
                tqdm.write(f"skipped: {fault}", sys.stderr)  # printed by every rank
        self.reported.update(found)


class Item(NamedTuple):
    """One example: a normalised image (3, R, R), its label, and its file's fault ("" for none)."""

    image: Tensor
    label: int
    fault: str
