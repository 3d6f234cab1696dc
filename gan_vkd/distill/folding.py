"""Batch norms of a frozen network as part of the convolutions before them.

In eval mode a batch norm is an affine map of each channel. Behind a convolution it is a factor of
the weights and a bias, which saves a pass over the features.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gan_vkd.distill.teacher import Teacher

TOLERANCE = 1e-4  # relative error of the features, up to which the folded network is used


@torch.no_grad()
def fold_batch_norms(teacher: Teacher) -> int:
    """Folds batch norms of a teacher into its convolutions, in place; returns their number.

    A forward pass shows which convolution a batch norm follows. Modules that are read as a layer
    stay as they are. Features before and after are compared: where they differ, as if the output
    of a convolution is also used elsewhere, nothing is changed and the number is 0.
    """
    own = torch.Generator().manual_seed(0)
    images = (torch.rand(2, *teacher.probe, generator=own) * 2 - 1).to(teacher.mean.device)
    before = teacher.read(images)
    pairs = _pairs(teacher, images)
    folded: dict[nn.Module, nn.Module] = {}
    for convolution, norm in pairs:
        folded[convolution] = fuse_conv_bn_eval(convolution, norm)
        folded[norm] = getattr(norm, "act", nn.Identity())
    _replace(teacher.network, folded)
    after = teacher.read(images)
    if all((x - y).norm() <= TOLERANCE * y.norm() for x, y in zip(after, before, strict=True)):
        return len(pairs)
    _replace(teacher.network, {new: old for old, new in folded.items()})
    return 0


def _pairs(teacher: Teacher, images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions, each with the batch norm that its output is given to; both are called once."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by their identity: they are kept alive
    calls: Counter[nn.Module] = Counter()
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after(module: nn.Conv2d, args: Any, output: Tensor) -> None:
        calls[module] += 1
        outputs[id(output)] = module, output

    def before(module: nn.BatchNorm2d, args: Any) -> None:
        calls[module] += 1
        if id(args[0]) in outputs:
            pairs.append((outputs[id(args[0])][0], module))

    names = {module: name for name, module in teacher.network.named_modules()}
    hooks = [m.register_forward_hook(after) for m in names if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(before) for m in names if _is_affine(m)]
    teacher.read(images)
    for hook in hooks:
        hook.remove()
    read = {layer.name for layer in teacher.reader.layers}
    return [pair for pair in pairs if all(calls[m] == 1 and names[m] not in read for m in pair)]


def _is_affine(module: nn.Module) -> bool:
    """Whether it is a batch norm with known statistics: torch's, or timm's with an activation."""
    known = type(module) is nn.BatchNorm2d or (
        isinstance(module, nn.BatchNorm2d) and hasattr(module, "act")
    )
    return known and module.running_mean is not None and module.running_var is not None


def _replace(network: nn.Module, modules: dict[nn.Module, nn.Module]) -> None:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child in modules:
                setattr(parent, name, modules[child])
