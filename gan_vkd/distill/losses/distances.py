"""Distances between two sets of features (B, d), by name."""

import torch.nn.functional as F
from torch import Tensor

from gan_vkd.runtime.registry import Registry


def mean_norm(a: Tensor, b: Tensor) -> Tensor:
    """Mean over samples of the Euclidean norm of the difference; its gradient at zero is zero.

    Used by KD-DLGAN's code: each sample's gradient has norm 1 / B, whatever its distance.
    """
    return (a - b).norm(dim=1).mean()


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean over samples of 1 - cos(a_i, b_i), in [0, 2]; independent of the lengths."""
    return 1 - F.cosine_similarity(a, b, dim=1).mean()


DISTANCES: Registry[Tensor] = Registry("distance")
DISTANCES.register("mse")(F.mse_loss)
DISTANCES.register("smooth_l1")(F.smooth_l1_loss)
DISTANCES.register("l1")(F.l1_loss)
DISTANCES.register("norm")(mean_norm)
DISTANCES.register("cosine")(cosine_distance)
