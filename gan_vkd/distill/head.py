"""The head that KD-DLGAN distils through: pooled features to the teacher's width."""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan_vkd.distill.precision import Precise

HIDDEN = 1024


class Head(Precise):
    """Two linear layers without an activation between them (Cui et al., CVPR 2023, released code).

    Args:
        student_width: ds.
        width: of the output, the teacher's.
        spectral: whether both weights are divided by their largest singular value, as released;
            its power iteration has converged before the first step.
    """

    def __init__(self, student_width: int, width: int, *, spectral: bool = True) -> None:
        super().__init__()
        layers = nn.Linear(student_width, HIDDEN), nn.Linear(HIDDEN, width)
        self.layers = nn.Sequential(*(spectral_norm(x) if spectral else x for x in layers))

    def forward(self, features: Tensor) -> Tensor:
        """(B, student_width) -> (B, width)."""
        return self.layers(features)
