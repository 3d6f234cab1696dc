"""One example on its way to the network, the seed that makes it, and files without one."""

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


def number_of(*key: Any) -> int:
    """A seed that is a function of the key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "big")


def sow(*key: Any) -> None:
    """Seeds Python's, NumPy's and torch's generators as a function of the key."""
    seed = number_of(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # otherwise torch.manual_seed keeps a stack trace of each call
        torch.cuda.manual_seed_all(seed)


class Faults:
    """What to do with files that cannot be used: refuse them by name, or tell each once.

    Args:
        damaged: of the settings, refuse or skip.
    """

    def __init__(self, damaged: str) -> None:
        self.damaged, self.told = damaged, set[str]()

    def tell(self, faults: Iterable[str]) -> None:
        """Raises VkdError with data.damaged=refuse, where there are any."""
        found = list(dict.fromkeys(faults))
        if found and self.damaged == "refuse":
            raise VkdError(
                f"cannot be used: {'; '.join(found[:5])}. Mend or remove it, or set "
                "data.damaged=skip; continue with --resume"
            )
        for fault in found:
            if fault not in self.told:
                tqdm.write(f"passed over: {fault}", sys.stderr)  # on any rank
        self.told.update(found)


class Item(NamedTuple):
    """One example: a normalised image (3, R, R), its label, and what was wrong with its file."""

    image: Tensor
    label: int
    fault: str
