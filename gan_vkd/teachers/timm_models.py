"""Models of timm, by timm's names."""

from dataclasses import replace
from typing import Any

from torch import nn

from gan_vkd.networks.weights import require_finite
from gan_vkd.runtime.errors import SettingsError, VkdError, one_line
from gan_vkd.runtime.files import user_path
from gan_vkd.teachers.interface import TEACHERS, Built, unreachable
from gan_vkd.teachers.settings import NetworkSettings


@TEACHERS.register("timm")
def timm_model(settings: NetworkSettings, whole: bool = False) -> Built:
    """A timm model: CLIP towers are read at the joint embedding, others before the classifier."""
    import timm
    from timm.data.config import resolve_model_data_config

    name, weights = settings.name.removeprefix("timm/"), settings.weights
    if weights is not None and not user_path(weights).is_file():
        raise VkdError(f"{weights}: no such file (weights of timm/{name})")
    clip = "clip" in name and "ft_in" not in name
    if not timm.is_model(name.split(".")[0]):
        raise SettingsError(f"timm/{name}: timm has no model of that name")
    try:
        overlay = None
        if weights is not None:  # older versions of timm would unpickle any object
            path = str(user_path(weights))
            overlay = {"state_dict": timm.models.load_state_dict(path, weights_only=True)}
            if not overlay["state_dict"]:  # timm would fetch the published weights instead
                raise ValueError("the file has no weights")
        # with its classifier: timm accepts any names where num_classes differs from the weights'
        network: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # hub, network and file errors of many kinds
        if weights is None:
            raise unreachable(f"timm/{name}", "its hub", error) from None
        reason = one_line(error)
        raise VkdError(f"{weights}: not weights of timm/{name} ({reason})") from None
    require_finite(network, weights or f"timm/{name}")  # also the classifier, removed below
    cfg = resolve_model_data_config(network)
    built = Built(network, cfg["mean"], cfg["std"], cfg["input_size"][-1])
    if clip:
        return built
    head = network.get_classifier()
    rows = head.weight.detach() if isinstance(head, nn.Linear) else None
    if not whole:
        network.reset_classifier(0)
        return replace(built, class_rows=rows)
    names = network.pretrained_cfg["classifier"]
    name = names if isinstance(names, str) else names[0]
    return replace(built, class_rows=rows, classifier=name)
