"""What frozen networks were trained on: whether a teacher has seen what the judge knows.

A Frechet distance measures in its judge's features. A teacher that was trained on the same images
can improve it by handing those features on, with no better samples (Kynkaanniemi et al., ICLR 2023,
show it for ImageNet's classes): a table has to say which kind its teachers are.
"""

import hashlib
from pathlib import Path

from gan_vkd.checkpoint import load_state
from gan_vkd.config import INCEPTION, NetworkSettings
from gan_vkd.errors import VkdError
from gan_vkd.teachers import CIFAR_RESNET_FILES

# Parts of timm's tags for weights, and the images behind them; the first that fits.
TIMM_TAGS = {
    "in22k": {"ImageNet-21k", "ImageNet-1k"},
    "in21k": {"ImageNet-21k", "ImageNet-1k"},
    "in12k": {"ImageNet-21k", "ImageNet-1k"},
    "lvd142m": {"LVD-142M", "ImageNet-21k", "ImageNet-1k"},
    "in1k": {"ImageNet-1k"},
    "openai": {"OpenAI's image-text pairs"},
    "laion": {"LAION"},
    "datacomp": {"DataComp"},
    "dfn": {"DFN"},
    "webli": {"WebLI"},
    "metaclip": {"MetaCLIP"},
    "dino": {"ImageNet-1k"},
}


# Of `vkd teach`. A folder may hold anything, another one's images among them.
KNOWN_SOURCES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "digits"}


def trained_on(network: NetworkSettings) -> set[str] | None:
    """The image sets that a network's weights were trained on; None: not known.

    Local weights count as the published ones only where that can be checked.
    """
    name = network.name
    if name in INCEPTION:
        return {"ImageNet-1k"}
    if name.startswith("cifar_resnet"):
        return {"CIFAR-10"} if _is_published(network) else None
    if name.startswith("timm/") and network.weights is None:
        tag = name.partition(".")[2]
        named = [sets for part, sets in TIMM_TAGS.items() if part in tag]
        return set().union(*named) if named else None
    if name == "classifier" and network.weights is not None:
        try:
            state = load_state(Path(network.weights).expanduser())
            source = str(state["settings"]["data"]["source"])
            return {KNOWN_SOURCES[source]} if source in KNOWN_SOURCES else None
        except (VkdError, KeyError, TypeError):
            return None
    return None


def _is_published(resnet: NetworkSettings) -> bool:
    """Whether the weights are the published ones, whose file's name begins its digest."""
    if resnet.weights is None:
        return True
    depth = resnet.name.removeprefix("cifar_resnet")
    published = CIFAR_RESNET_FILES.get(int(depth)) if depth.isdigit() else None
    path = Path(resnet.weights).expanduser()
    if published is None or not path.is_file():
        return False
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return digest.startswith(published.partition("-")[2].removesuffix(".th"))


def relation(teacher: NetworkSettings, judge: NetworkSettings) -> str:
    """One clause on whether a teacher has seen the images that the evaluation's network has."""
    named = f"teacher {teacher.name}"
    if (teacher.name, teacher.weights) == (judge.name, judge.weights):
        return f"{named} is the judge itself"
    taught, judged = trained_on(teacher), trained_on(judge)
    if taught is None or judged is None:
        return f"{named}: not known whether it has seen the judge's training images"
    if both := sorted(taught & judged):
        return f"{named} has seen the judge's training images ({', '.join(both)})"
    sets = ", ".join(sorted(taught)), ", ".join(sorted(judged))
    return f"{named} ({sets[0]}) has not seen the judge's training images ({sets[1]})"
