"""The state of optimisers in checkpoints."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer


def load_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Restores moments and step counts; learning rates and other options stay as the settings say.

    Args:
        optimizer: of the same parameters in the same order.
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
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
