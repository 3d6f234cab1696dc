"""The head of KD-DLGAN, which maps the pooled features to the teacher's width."""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan_vkd.distill.precision import Precise, at_least_float32, without_autocast

HIDDEN = 1024


class Head(Precise):
    """Two linear layers without an activation between them (Cui et al., CVPR 2023, released code).

    Weights are initialised from N(0, 0.02^2), as those of the discriminator in that code; biases
    as torch.nn.Linear initialises them.

    Args:
        student_width: ds, the width of the pooled features.
        width: of the output; the teacher's width.
        spectral: whether both weights are divided by their largest singular value, as in the
            released code: estimated by one power iteration per forward in training mode, with a
            gradient through the singular value but not through its vectors. The released code
            starts from random vectors; here fifteen iterations precede the first forward.
    """

    def __init__(self, student_width: int, width: int, *, spectral: bool = True) -> None:
        super().__init__()
        layers = nn.Linear(student_width, HIDDEN), nn.Linear(HIDDEN, width)
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.02)
        self.layers = nn.Sequential(*(spectral_norm(x) if spectral else x for x in layers))

    def forward(self, features: Tensor) -> Tensor:
        """(B, ds) -> (B, width), in float32 or better under any autocast."""
        with without_autocast(features):
            return self.layers(at_least_float32(features))
