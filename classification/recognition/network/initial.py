"""A student's initial weights from a file, adapted as timm adapts those that it fetches.

Position embeddings, relative position biases and patch projections of other sizes are resized by
timm's own conversion for the architecture (`checkpoint_filter_fn`). Heads of other classes, and
distillation tokens that the file does not have in this number, begin anew.
"""

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classification.epochs.weights import named_tensors
from classification.recognition.network.published import from_published
from classification.recognition.weights import read_weights
from gan_vkd.networks.weights import load_foreign, require_finite
from gan_vkd.runtime import ranks
from gan_vkd.runtime.errors import VkdError, one_line
from gan_vkd.runtime.files import user_path

_POSITIONS, _TOKEN = "pos_embed", "dist_token"


def start_from(network: Any, weights: str) -> None:
    """Fills a student's network from a file or a run, and prints a line about what begins anew.

    Args:
        network: of timm, or with this project's stem or tokens.
        weights: a run folder, an exported file, or a published one.

    Raises:
        VkdError: no such file, one that is damaged, or weights of another architecture; the
            message has the file's where it can be read.
    """
    file = user_path(weights)
    file = file / "student.safetensors" if file.is_dir() else file
    state = from_published(named_tensors(load_foreign(file), file), file)
    try:
        adjusted, new = adapted(state, network)
        network.load_state_dict(adjusted)
    except Exception as error:  # timm's conversions fail on another network's weights in many ways
        reason = one_line(error).replace("Error(s) in loading state_dict for ", "")[:200]
        raise VkdError(
            f"{file}: weights of another network than the student{_found(file)}: {reason}"
        ) from None
    require_finite(network, file)
    if new and ranks.is_first():
        print(f"{file}: begin anew, for {network.num_classes} classes: {', '.join(new)}")


def _found(file: Path) -> str:
    """The settings of the student that a file's weights are of, where they can be read."""
    try:
        facts = read_weights(file)[1]
    except VkdError:
        return ""
    options = "".join(f", options.{key}={value}" for key, value in facts["options"].items())
    return f" (theirs: student.name={facts['name']}{options}, stem={facts['stem']})"


def adapted(state: Mapping[str, Tensor], network: Any) -> tuple[dict[str, Tensor], list[str]]:
    """Weights under our names in the sizes of a network, and the names that its own values have.

    Raises:
        Exception: of any kind, for weights of another architecture.
    """
    own = network.state_dict()
    state = _resized(_with_tokens(state, own), network)
    names = network.pretrained_cfg["classifier"]
    prefixes = tuple(f"{x}." for x in ((names,) if isinstance(names, str) else names))
    prefixes += ("head_dist.",)
    heads = [name for name in own if name.startswith(prefixes)]
    new = [n for n in heads if n not in state or state[n].shape != own[n].shape]
    kept = {name: x for name, x in state.items() if not name.startswith(prefixes) or name in heads}
    return kept | {name: own[name] for name in new}, new


def _with_tokens(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with as many distillation tokens as the network; new ones are the network's."""
    theirs, ours = (x[_TOKEN].shape[1] if _TOKEN in x else 0 for x in (state, own))
    state = dict(state)
    if theirs == ours or _POSITIONS not in state or _POSITIONS not in own:
        return state
    classes, patches = state[_POSITIONS][:, :1], state[_POSITIONS][:, 1 + theirs :]
    state[_POSITIONS] = torch.cat([classes, own[_POSITIONS][:, 1 : 1 + ours], patches], 1)
    state = {n: x for n, x in state.items() if not n.startswith((_TOKEN, "head_dist."))}
    return state | ({_TOKEN: own[_TOKEN]} if ours else {})


def _resized(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    modules = [sys.modules[base.__module__] for base in type(network).__mro__]
    found = (getattr(module, "checkpoint_filter_fn", None) for module in modules)
    convert = next((function for function in found if function is not None), None)
    with warnings.catch_warnings(action="ignore"):  # of torch, about timm's interpolation
        return state if convert is None else convert(state, network)
