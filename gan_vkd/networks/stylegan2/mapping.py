"""The mapping network: latents, classes, or both, to the intermediate latent w."""

import torch
from torch import Tensor, nn

from gan_vkd.distill.precision import without_autocast
from gan_vkd.networks.stylegan2.layers import Linear, activate, normalize
from gan_vkd.runtime import across

RATE = 0.01  # multiplier of the learning rate (Karras et al., CVPR 2019, appendix C)
DECAY = 0.995  # of the average of w


class Mapping(nn.Module):
    """Maps the normalised latent and the normalised embedding of the class to w, in float32.

    Args:
        z_dim: width of the latent; 0: none, for the mapped class of the discriminator.
        classes: number of classes; 0: none.
        w_dim: width of w, of the layers and of the embedding.
        layers: number of layers.

    With a latent, `w_avg` (w_dim,) is the moving average of w over all forwards in training mode.
    """

    w_avg: Tensor

    def __init__(self, z_dim: int, classes: int, w_dim: int, layers: int) -> None:
        super().__init__()
        self.z_dim, self.classes = z_dim, classes
        if classes:
            self.embed = Linear(classes, w_dim)
        widths = [z_dim + (w_dim if classes else 0)] + [w_dim] * layers
        self.names = [f"fc{index}" for index in range(layers)]
        for name, inputs in zip(self.names, widths, strict=False):
            self.add_module(name, Linear(inputs, w_dim, rate=RATE))
        if z_dim:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor | None, labels: Tensor) -> Tensor:
        """Latents (B, z_dim), or None, and labels (B,) -> (B, w_dim)."""
        with without_autocast(labels):
            given = [] if z is None else [normalize(z)]
            if self.classes:
                given.append(normalize(self.embed.of_class(labels)))
            w = torch.cat(given, 1)
            for name in self.names:
                w = activate(self.get_submodule(name)(w))
            return w

    @torch.no_grad()
    def track(self, w: Tensor) -> None:
        """Updates the average with w (B, w_dim) of all ranks."""
        self.w_avg.lerp_(across.mean(w.mean(0)), 1 - DECAY)
