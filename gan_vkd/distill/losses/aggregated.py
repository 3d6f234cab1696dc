"""The aggregated term of KD-DLGAN: real and fake images of the student to those of the teacher."""

from torch import Tensor, nn

from gan_vkd.distill.losses.distances import mean_norm
from gan_vkd.distill.precision import full_precision


class Aggregated(nn.Module):
    """Draws the student's real and fake features each to the teacher's real and fake ones.

    KD-DLGAN (Cui et al., CVPR 2023), section 3.2, as the released code computes it: the sum over
    the four pairs of sides of the mean Euclidean distance, image by image. It learns nothing: what
    maps the student's features to the teacher's width (`Head`) comes before it.
    """

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(2B, dt) twice, B fake images and then B real ones -> a scalar."""
        sides, anchors = student.chunk(2), teacher.chunk(2)
        first, *others = [mean_norm(side, anchor) for side in sides for anchor in anchors]
        return sum(others, first)
