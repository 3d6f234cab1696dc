"""One example on its way to the network, and the seed that makes it."""

import hashlib
import random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


def sow(*key: Any) -> int:
    """Seeds Python's, NumPy's and torch's generators as a function of the key, which it returns as
    a number."""
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7], "big")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # otherwise torch.manual_seed keeps a stack trace of each call
        torch.cuda.manual_seed_all(seed)
    return seed


class Item(NamedTuple):
    """One example: a normalised image (3, R, R), its label, and what was wrong with its file."""

    image: Tensor
    label: int
    fault: str
