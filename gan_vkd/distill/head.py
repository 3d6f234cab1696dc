"""The head that KD-DLGAN distils through: pooled features to the teacher's width."""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan_vkd.distill.precision import Precise, at_least_float32, without_autocast

HIDDEN = 1024


class Head(Precise):
    """Two linear layers without an activation between them (Cui et al., CVPR 2023, released code).

    Weights begin as N(0, 0.02^2), as those of the discriminator there; biases as a linear layer's.

    Args:
        student_width: ds.
        width: of the output, the teacher's.
        spectral: whether both weights are divided by their largest singular value, as released: by
            one power iteration a forward in training mode, differentiated through the singular
            value and not through its vectors. Where the release begins with random vectors, fifteen
            iterations go before the first forward.
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
