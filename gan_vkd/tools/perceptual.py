"""Distance of pictures from a target: by the maps of a frozen network, and by pixels."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_vkd.distill import Layer, Reader, Teacher
from gan_vkd.evaluation.settings import INCEPTION
from gan_vkd.game.settings import Settings
from gan_vkd.teachers.frozen import load_teacher
from gan_vkd.teachers.settings import NetworkSettings


def load_network(settings: Settings, run: Path, device: str) -> Teacher:
    """Loads the network that distances are taken on.

    The first judge that images can be differentiated through, which Inception's TorchScript is not;
    the discriminator of the run if there is none.

    Raises:
        VkdError: its weights are missing or do not fit.
    """
    own = NetworkSettings(name="discriminator", weights=str(run))
    judges = [judge for judge in settings.evaluate.judges if judge.name not in INCEPTION]
    data = settings.data
    return load_teacher([*judges, own][0], data.resolution, device, background=data.backdrop)


class Distance(nn.Module):
    """Perceptual and pixel distance of pictures from a target.

    The perceptual one is LPIPS (Zhang et al., CVPR 2018, equation 1) without learnt weights: the
    squared difference of maps whose channels have unit length at each position, averaged over
    positions and layers. The layers are the last one of each size of maps, and the features that
    the network is read at as a judge. The pixel distance is the mean square, of images in [-1, 1].

    Args:
        network: whose reader is replaced.
        target: (1, C, H, W) in [-1, 1].
    """

    target: Tensor

    def __init__(self, network: Teacher, target: Tensor) -> None:
        super().__init__()
        self.network = network
        maps = [Layer(name, "all") for name in last_maps(network, target)]
        network.reader = Reader(network.network, [*maps, *network.reader.layers])
        self.register_buffer("target", target)
        self.features = self._features(target)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) in [-1, 1] -> perceptual and pixel distances, both (B,)."""
        pairs = zip(self._features(images), self.features, strict=True)
        layers = [(own - other).square().sum(1).flatten(1).mean(1) for own, other in pairs]
        return torch.stack(layers).mean(0), (images - self.target).square().mean((1, 2, 3))

    def _features(self, images: Tensor) -> list[Tensor]:
        """Maps (B, d, h, w) or (B, d, 1), of unit length over d."""
        found = self.network.read(images)
        return [F.normalize(x if x.ndim == 4 else x[:, :, None], dim=1) for x in found]


def last_maps(network: Teacher, images: Tensor) -> list[str]:
    """Names of the modules whose outputs (B, d, h, w) are the last of their size in a forward."""
    last: dict[torch.Size, str] = {}

    def keep(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            last[output.shape[2:]] = name

    hooks = [
        module.register_forward_hook(lambda module, args, output, name=name: keep(name, output))
        for name, module in network.network.named_modules()
    ]
    network.read(images)
    for hook in hooks:
        hook.remove()
    return list(last.values())
