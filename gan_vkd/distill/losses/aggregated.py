"""The aggregated term of KD-DLGAN: student features against real and fake teacher features."""

from torch import Tensor, nn

from gan_vkd.distill.losses.distances import mean_norm
from gan_vkd.distill.precision import full_precision


class Aggregated(nn.Module):
    """Pulls the student's real and fake features each towards the teacher's real and fake ones.

    KD-DLGAN (Cui et al., CVPR 2023), section 3.2, as the released code computes it: the mean
    Euclidean distance between corresponding rows, summed over the four combinations of real and
    fake. It has no parameters; a `Head` must map the student's features to the teacher's width
    before.
    """

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Two tensors (2B, dt), each B fake images followed by B real ones -> a scalar."""
        sides, anchors = student.chunk(2), teacher.chunk(2)
        first, *others = [mean_norm(side, anchor) for side in sides for anchor in anchors]
        return sum(others, first)
