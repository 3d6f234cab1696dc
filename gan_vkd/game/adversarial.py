"""The losses of the adversarial game."""

import torch.nn.functional as F
from torch import Tensor


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss on scores (B,) (Lim and Ye 2017; Miyato et al., ICLR 2018)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """The generator's side of the hinge game."""
    return -fake.mean()
