"""A frozen network with its preprocessing and the layers whose features are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gan_vkd.distill.channels import WHITE, as_map, with_channels


@dataclass(frozen=True)
class Layer:
    """A layer of a network, and how its features are pooled to one vector per sample.

    name: a name in `network.named_modules()`; "" is the network itself.
    rule: "mean" or "sum" over tokens or spatial positions, "first" for the class token, "all" for
        tokens and maps without pooling.
    prefix: number of leading tokens (class, distillation, registers) that are left out of the rules
        "mean", "sum" and "all".
    channels_last: whether maps are (B, H, W, d), as in Swin.
    before: whether the module's input is read instead of its output.
    """

    name: str = ""
    rule: str = "mean"
    prefix: int = 0
    channels_last: bool = False
    before: bool = False

    def pool(self, features: Tensor) -> Tensor:
        """Vectors (B, d), tokens (B, N, d) or maps (B, d, H, W) -> (B, d).

        With the rule "all", tokens are returned without the prefix and maps as (B, d, H, W).

        Raises:
            ValueError: the features have another shape, or one that the rule cannot pool.
        """
        if features.ndim == 2:
            return features
        if features.ndim == 3 and self.rule == "first":
            return features[:, 0]
        if self.rule == "all" and features.ndim in (3, 4):
            if features.ndim == 3:
                return features[:, self.prefix :]
            return features.permute(0, 3, 1, 2) if self.channels_last else features
        maps = (1, 2) if self.channels_last else (2, 3)
        dims = {3: (1,), 4: maps}.get(features.ndim)
        if dims is None or self.rule not in ("mean", "sum"):
            shape = tuple(features.shape)
            raise ValueError(f"cannot pool features of shape {shape} by {self.rule!r}")
        if features.ndim == 3:
            features = features[:, self.prefix :]
        return features.mean(dims) if self.rule == "mean" else features.sum(dims)


class Reader:
    """Collects the features of one or more layers in the forwards within its context.

        with reader:
            network(images)
        features = reader.take()

    Args:
        network: any module, a student or a teacher.
        layers: the layers to read, in the order in which `take` returns them.

    Raises:
        ValueError: the network has no module of that name.
    """

    def __init__(self, network: nn.Module, layers: Sequence[Layer]) -> None:
        self.layers = list(layers)
        self._outputs: dict[tuple[str, bool], Tensor] = {}
        self._hooks: list[RemovableHandle] = []
        modules = dict(network.named_modules())
        for name in (layer.name for layer in layers):
            if name not in modules:
                known = ", ".join(known for known in modules if known and known.count(".") < 2)
                raise ValueError(f"the network has no layer {name!r}; it has {known}")
        self._modules = {(x.name, x.before): modules[x.name] for x in layers}

    def __enter__(self) -> Self:
        self._hooks = [
            module.register_forward_hook(partial(self._keep, name, before))
            for (name, before), module in self._modules.items()
        ]
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        if kind is not None:
            self._outputs = {}

    def _keep(self, name: str, before: bool, module: nn.Module, args: Any, output: Any) -> None:
        kept = args if before else output
        self._outputs[name, before] = kept[0] if isinstance(kept, tuple | list) else kept

    def take(self) -> list[Tensor]:
        """Returns the features (B, d) of each layer in the last forward and clears them.

        Raises:
            ValueError: the last forward did not reach a layer (for example a container that is
                never called itself), or its features cannot be pooled by the layer's rule.
        """
        outputs, self._outputs = self._outputs, {}
        keys = [(layer.name, layer.before) for layer in self.layers]
        missing = [name for name, before in keys if (name, before) not in outputs]
        if missing:
            raise ValueError(f"the last forward did not reach the layer {missing[0]!r}")
        return [layer.pool(outputs[key]) for layer, key in zip(self.layers, keys, strict=True)]


class Teacher(nn.Module):
    """Maps images in [-1, 1] to features of a frozen network, differentiable in the images.

    The features of several layers are concatenated to (B, width); `widths` holds the width of each
    layer and `shapes` the shape of its features for one image.

    Args:
        network: any image network; frozen and set to eval mode here.
        mean, std: per channel, of the network's input normalisation, for images in [0, 1]. A
            network of other channels than the images is given converted ones (`with_channels`).
        size: (height, width) that images are resized to; None does not resize.
        enlarge: interpolation of the resizing, "bicubic" (antialiased) or "nearest".
        layers: where the features are read; the network's output by default.
        probe: side, or (height, width), of the image that is used to measure the widths.
        background: colour in [0, 1] that transparent images are put on.
        class_rows: (C, d), the weights of the classifier, for methods that need a vector per class.
    """

    mean: Tensor
    std: Tensor
    background: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        size: tuple[int, int] | None = None,
        enlarge: Literal["bicubic", "nearest"] = "bicubic",
        layers: Sequence[Layer] = (Layer(),),
        probe: int | tuple[int, int] = 32,
        class_rows: Tensor | None = None,
        background: Sequence[float] = WHITE,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.size, self.enlarge = size, enlarge
        self.reader, self.class_rows = Reader(network, layers), class_rows
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.mean, self.std = self.mean.float(), self.std.float()
        self.register_buffer("background", as_map(background), persistent=False)
        device = next(iter(network.parameters()), self.mean).device
        self.to(device)
        network.to(memory_format=torch.channels_last)  # the faster layout of convolutions
        sides = (probe, probe) if isinstance(probe, int) else probe
        self.probe = (self.mean.shape[1], *sides)
        with torch.no_grad():
            read = self.read(torch.zeros(1, *self.probe, device=device))
        self.shapes = [tuple(features.shape) for features in read]
        self.widths = [shape[1] for shape in self.shapes]
        self.width = sum(self.widths)

    def train(self, mode: bool = True) -> "Teacher":
        """Does nothing but return the teacher, which always stays in eval mode."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat(self.read(images), dim=1)

    def read(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, H, W) in [-1, 1] -> the features of each layer, in float32."""
        x = with_channels((images.float() + 1) / 2, self.mean.shape[1], self.background)
        if self.size is not None and x.shape[-2:] != self.size:
            smooth = self.enlarge == "bicubic"
            x = F.interpolate(x, self.size, mode=self.enlarge, antialias=smooth)
        with self.reader:
            self.network((x - self.mean) / self.std)
        return [features.float() for features in self.reader.take()]
