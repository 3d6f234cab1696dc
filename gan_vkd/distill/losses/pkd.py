"""PKD: probabilistic knowledge transfer."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from gan_vkd.distill.losses.registry import METHODS
from gan_vkd.distill.precision import full_precision


@METHODS.register("pkd")
class PKD(nn.Module):
    """KL(p || q) of the neighbour probabilities, p of the teacher and q of the student.

    Probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018): p(i | j) is the similarity
    (cos(z_i, z_j) + 1) / 2, normalised over i.

    Args:
        student_width, teacher_width: ds and dt, not used.
        form: "paper" (equations 3 to 6) takes i != j and the mean over the B samples j; "code", the
            authors' released code, takes all i, including j, and the mean over all B^2 terms, so
            that loss and gradient are B times smaller.
    """

    least_batch = 2

    def __init__(
        self, student_width: int, teacher_width: int, *, form: Literal["paper", "code"] = "paper"
    ) -> None:
        super().__init__()
        self.form = form

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, ds) and (B, dt) -> a scalar."""
        p, q = self._conditional(teacher), self._conditional(student)
        terms = len(p) if self.form == "paper" else p.numel()
        return F.kl_div(q.log(), p, reduction="sum") / terms

    def _conditional(self, features: Tensor) -> Tensor:
        """(B, d) -> probabilities (B, B - 1) without the sample itself, or (B, B) with it."""
        z, b = F.normalize(features, dim=1), len(features)
        similarity = (z @ z.T + 1) / 2
        if self.form == "paper":
            # without the diagonal; indexing by a mask would wait for the device
            similarity = similarity.flatten()[:-1].view(b - 1, b + 1)[:, 1:].reshape(b, b - 1)
        similarity = similarity.clamp_min(1e-7)
        return similarity / similarity.sum(1, keepdim=True)
