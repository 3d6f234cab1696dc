"""FitNets: linear regression of the teacher's features."""

import torch.nn.functional as F
from torch import Tensor, nn

from gan_vkd.distill.losses.registry import METHODS
from gan_vkd.distill.precision import Precise, full_precision


@METHODS.register("fitnets")
class FitNets(Precise):
    """Mean squared error of a learnt linear regressor from student to teacher features.

    Romero et al., ICLR 2015, equation 3. The squared error is averaged over dimensions, like VkD's
    distance; the paper takes half the sum.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.regress = nn.Linear(student_width, teacher_width)

    def sides(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ds) and (B, dt) -> the prediction and its target, (B, dt) each."""
        return self.regress(student), teacher

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, ds) and (B, dt) -> a scalar."""
        return F.mse_loss(*self.sides(student, teacher))
