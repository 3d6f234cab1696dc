"""VICReg: invariance, variance and covariance."""

import torch.nn.functional as F
from torch import Tensor

from gan_vkd.distill.losses.registry import METHODS
from gan_vkd.distill.normalization import Standardize
from gan_vkd.distill.precision import Precise, full_precision
from gan_vkd.distill.projection import LinearProjection


@METHODS.register("vicreg")
class VICReg(Precise):
    """Invariance to the standardised teacher, variance and covariance of the projected student.

    Bardes, Ponce and LeCun, ICLR 2022, equations 1 to 6, with their weights 25, 25 and 1. The
    second branch is a frozen teacher, so the variance and covariance terms apply to the student
    only.
    """

    least_batch = 2

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.project = LinearProjection(student_width, teacher_width)
        self.normalize = Standardize(teacher_width)

    def sides(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ds) and (B, dt) -> the projected student and its target, (B, dt) each."""
        return self.project(student), self.normalize(teacher).to(student.dtype)

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, ds) and (B, dt) -> a scalar."""
        z, target = self.sides(student, teacher)
        centred = z - z.mean(0)
        cov = centred.T @ centred / (len(z) - 1)
        variance = F.relu(1 - (cov.diagonal() + 1e-4).sqrt()).mean()
        covariance = (cov - cov.diagonal().diag()).square().sum() / z.shape[1]
        return 25 * F.mse_loss(z, target) + 25 * variance + covariance
