"""KD-DLGM: the aggregated term and the correlation with text embeddings."""

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
    - correlated: squared Frobenius distance between the student's and the teacher's row-normalised
      similarities to the class embeddings, summed over the real and the fake images of the batch.

    The paper's diversity term depends on the teacher's similarities alone. It has no gradient and
    is left out.

    Args:
        student_width: ds.
        teacher_width: dt.
        text: class embeddings (C, dt) in the teacher's feature space, from a text tower or the rows
            of the teacher's classifier. They are not normalised, so longer ones weigh more.
        spectral: whether the head is spectrally normalised, as in the released code.

    Raises:
        ValueError: the embeddings have another width, or there are fewer than two.
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
                f"text embeddings of shape {tuple(text.shape)} do not fit: give two or more "
                f"of the teacher's width {teacher_width}"
            )
        self.head = Head(student_width, teacher_width, spectral=spectral)
        self.aggregated = Aggregated()
        self.register_buffer("text", text.float())

    @full_precision
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(2B, ds) and (2B, dt), each B fake images followed by B real ones -> a scalar."""
        ours = self.head(student)
        text = self.text.to(ours.dtype)
        ours_text, theirs_text = (F.normalize(z @ text.T, dim=1) for z in (ours, teacher))
        correlated = (ours_text - theirs_text).square().sum()
        return self.aggregated(ours, teacher) + correlated
