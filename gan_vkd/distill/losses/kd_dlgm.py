"""KD-DLGM: the aggregated term, and correlations with texts."""

import torch.nn.functional as F
from torch import Tensor

from gan_vkd.distill.head import Head
from gan_vkd.distill.losses.aggregated import Aggregated
from gan_vkd.distill.losses.registry import METHODS
from gan_vkd.distill.precision import Precise, full_precision


@METHODS.register("kd_dlgm")
class KDDLGM(Precise):
    """Aggregated and correlated distillation with text, as in KD-DLGAN (Cui et al., CVPR 2023).

    A head maps the student's features to the teacher's space. Two terms are summed, as in the
    authors' code:

    - aggregated: see `Aggregated`;
    - correlated: the row-normalised similarities to the texts of the classes are matched (squared
      Frobenius distance, a sum over the batch), of real and of fake images.

    The paper's diversity term is of the teacher's similarities: it gives nobody a gradient, and is
    left out.

    Args:
        student_width: ds.
        teacher_width: dt.
        text: (C, dt), one embedding a class in the teacher's space: of a text tower, or the rows of
            the teacher's classifier. A longer one counts for more.
        spectral: whether the head is spectrally normalised, as released.

    Raises:
        ValueError: texts of another width, or fewer than two.
    """

    text: Tensor
    least_batch = 2
    takes_text = True

    def __init__(
        self, student_width: int, teacher_width: int, text: Tensor, *, spectral: bool = True
    ) -> None:
        super().__init__()
        if text.ndim != 2 or text.shape[1] != teacher_width or len(text) < 2:
            raise ValueError(
                f"text embeddings of shape {tuple(text.shape)} do not fit: needed are two or more "
                f"of the teacher's width {teacher_width}"
            )
        self.head = Head(student_width, teacher_width, spectral=spectral)
        self.aggregated = Aggregated()
        self.register_buffer("text", text.float())

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(2B, ds) and (2B, dt), B fake images and then B real ones -> a scalar."""
        ours = self.head(student)
        text = self.text.to(ours.dtype)
        ours_text, theirs_text = (F.normalize(z @ text.T, dim=1) for z in (ours, teacher))
        correlated = (ours_text - theirs_text).square().sum()
        return self.aggregated(ours, teacher) + correlated
