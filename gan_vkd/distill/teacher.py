"""A frozen network, its preprocessing, and the layer it is read at."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pool(features: Tensor, rule: str = "mean", prefix: int = 0) -> Tensor:
    """Features of any layer as one vector a sample.

    Args:
        features: (B, d), tokens (B, N, d) or a map (B, d, H, W).
        rule: "mean" over tokens or space, "sum" over the same, "first" for the class token.
        prefix: tokens in front (class, distillation, registers) that a mean or sum leaves out.

    Returns:
        (B, d); a vector comes back as it is.

    Raises:
        ValueError: features of another shape, or a rule that does not fit it.
    """
    if features.ndim == 2:
        return features
    if features.ndim == 3 and rule == "first":
        return features[:, 0]
    dims = {3: (1,), 4: (2, 3)}.get(features.ndim)
    if dims is None or rule not in ("mean", "sum"):
        raise ValueError(f"cannot pool features of shape {tuple(features.shape)} by {rule!r}")
    if features.ndim == 3:
        features = features[:, prefix:]
    return features.mean(dims) if rule == "mean" else features.sum(dims)


class Tap:
    """Keeps what a named module of a network put out last.

    Args:
        network: any module.
        layer: a name in `network.named_modules()`; "" is the network itself.

    Raises:
        ValueError: no module of that name.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        modules = dict(network.named_modules())
        if layer not in modules:
            names = ", ".join(name for name in modules if name and name.count(".") < 2)
            raise ValueError(f"the network has no layer {layer!r}; it has {names}")
        self.output: Tensor | None = None
        modules[layer].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self.output = output[0] if isinstance(output, tuple | list) else output

    def take(self) -> Tensor:
        """The output of the last forward, given away."""
        if self.output is None:
            raise RuntimeError("the layer was not reached by the last forward")
        output, self.output = self.output, None
        return output


class Teacher(nn.Module):
    """Images in [-1, 1] to features (B, width) of a frozen network, differentiable in the images.

    Args:
        network: any image network; frozen and set to eval mode here.
        mean, std: of the network's normalisation, for images in [0, 1].
        size: (height, width) that images are resized to (bicubic, antialiased), None to leave them.
        layer: where the features are read; "" is the network's output.
        rule, prefix: how they are pooled, see `pool`.
        probe: resolution of the image that the width is measured with when size is None.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        size: tuple[int, int] | None = None,
        layer: str = "",
        rule: str = "mean",
        prefix: int = 0,
        probe: int = 32,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.size, self.rule, self.prefix = size, rule, prefix
        self.tap = Tap(network, layer)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.mean, self.std = self.mean.float(), self.std.float()
        device = next(iter(network.parameters()), self.mean).device
        self.to(device)
        if device.type == "cpu":  # the faster layout for oneDNN's convolutions
            network.to(memory_format=torch.channels_last)
        with torch.no_grad():
            self.width = self(torch.zeros(1, 3, probe, probe, device=device)).shape[1]

    def train(self, mode: bool = True) -> "Teacher":
        """A teacher stays in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        x = (images.float() + 1) / 2
        if self.size is not None and x.shape[-2:] != self.size:
            x = F.interpolate(x, self.size, mode="bicubic", align_corners=False, antialias=True)
        self.network((x - self.mean) / self.std)
        return pool(self.tap.take(), self.rule, self.prefix).float()
