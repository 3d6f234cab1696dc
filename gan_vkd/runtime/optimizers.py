"""The state of Adam in checkpoints."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def load_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Restores moments and step counts; learning rates and other options stay as the settings say.

    Tensors that exist are filled in place, since captured steps (gan_vkd/runtime/graphs.py) refer
    to them. Moments have their parameter's memory layout, which the fused implementations assume.

    Args:
        optimizer: Adam or AdamW, of the same parameters in the same order.
        saved: its `state_dict()`.

    Raises:
        ValueError, TypeError, LookupError: the state of another optimiser.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entries in saved["state"].items():
        shapes = {(), tuple(parameters[index].shape)}
        for name, value in entries.items():
            if not isinstance(value, Tensor) or tuple(value.shape) not in shapes:
                raise ValueError(f"the optimiser's {name} of parameter {index} does not fit")
    on_device = any(optimizer.defaults.get(name) for name in ("fused", "capturable"))
    for index, parameter in enumerate(parameters):
        state, entries = optimizer.state[parameter], saved["state"].get(index, {})
        if not entries:  # saved before the first step
            for value in state.values():
                value.zero_()
        for name, value in entries.items():
            if name not in state:
                count = torch.zeros((), device=parameter.device if on_device else "cpu")
                state[name] = count if name == "step" else torch.zeros_like(parameter)
            state[name].copy_(value)
