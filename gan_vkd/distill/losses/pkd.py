"""PKD: probabilities of neighbours."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_vkd.distill.precision import full_precision


class PKD(nn.Module):
    """Divergence of the teacher's conditional probabilities of neighbours from the student's.

    Probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018): p(i | j) is the similarity
    (cos(z_i, z_j) + 1) / 2, normalised over i != j (equations 3 to 6). The published code takes the
    mean of the terms over all pairs; here it is the mean over j of the divergences.
    """

    least_batch = 2

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, ds) and (B, dt) -> a scalar."""
        p, q = self._conditional(teacher), self._conditional(student)
        return F.kl_div(q.log(), p, reduction="batchmean")

    @staticmethod
    def _conditional(features: Tensor) -> Tensor:
        """(B, d) -> (B, B - 1): the probabilities of the others."""
        z, b = F.normalize(features, dim=1), len(features)
        similarity = (z @ z.T + 1) / 2
        others = ~torch.eye(b, dtype=torch.bool, device=z.device)
        similarity = similarity[others].view(b, b - 1).clamp_min(1e-7)
        return similarity / similarity.sum(1, keepdim=True)
