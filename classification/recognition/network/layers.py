"""Layers of a student as timm counts them: the stem, the blocks, the head; learning rates by layer.

Fine-tuning with a learning rate that decays towards the input: BEiT (Bao et al., ICLR 2022), MAE
(He et al., CVPR 2022), and `--layer-decay` of timm's training script.
"""

from collections.abc import Collection
from typing import Any

from timm.models import group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from classification.recognition.network.students import Student
from classification.recognition.settings import ClassifierTrainSettings
from gan_vkd.runtime.errors import SettingsError


def freeze(student: Student, lowest: int | str) -> None:
    """Excludes a student's lowest layers from training; they stay in eval mode.

    Args:
        student: whose parameters are marked.
        lowest: number of layers, or "all" for all but the head; 0: none.

    Raises:
        SettingsError: more layers than there are below the head.
    """
    if not lowest:
        return
    network = student.network
    if not hasattr(network, "group_matcher"):
        raise SettingsError("train.freeze: timm does not name this student's layers; set it to 0")
    layer = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
    below = max(layer.values())
    count = below if lowest == "all" else int(lowest)
    if count > below:
        raise SettingsError(
            f"train.freeze = {count}: the student has {below} layers below its head"
        )
    for name, parameter in network.named_parameters():
        if layer[name] < count:
            parameter.requires_grad_(False)
    student.frozen = [module for module in network.modules() if _is_frozen(module)]


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def groups_of(network: Any, train: ClassifierTrainSettings) -> list[dict[str, Any]]:
    """The optimiser's groups of a network: timm's, with `lr_scale` where the rate decays by layer.

    Weight decay spares biases, gains and what the network exempts (its tokens and positions).
    """
    exempt: Collection[str] = (
        network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
    )
    if train.layer_decay == 1:
        return param_groups_weight_decay(network, train.weight_decay, no_weight_decay_list=exempt)
    return param_groups_layer_decay(
        network, train.weight_decay, exempt, layer_decay=train.layer_decay
    )
