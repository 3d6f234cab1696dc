"""SPKD: similarity-preserving distillation."""

import torch.nn.functional as F
from torch import Tensor, nn

from gan_vkd.distill.losses.registry import METHODS
from gan_vkd.distill.precision import full_precision


@METHODS.register("spkd")
class SPKD(nn.Module):
    """Mean squared difference between the row-normalised Gram matrices of student and teacher.

    Similarity-preserving distillation (Tung and Mori, ICCV 2019, equations 1 to 4).
    """

    least_batch = 2

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, ds) and (B, dt) -> a scalar."""
        ours, theirs = (F.normalize(z @ z.T, dim=1) for z in (student, teacher))
        return F.mse_loss(ours, theirs)
