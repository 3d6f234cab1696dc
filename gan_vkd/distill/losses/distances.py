"""Distances between two sets of features, by name."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "smooth_l1": F.smooth_l1_loss,
    "l1": F.l1_loss,
}
