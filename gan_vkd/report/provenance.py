"""What frozen networks were trained on: whether a teacher has seen the judge's training images;
and what trained networks started from.

A Frechet distance is taken on its judge's features. A teacher that was trained on the same images
can lower it by passing such features on, without better samples (Kynkaanniemi et al., ICLR 2023,
show it for ImageNet's classes), so a table has to say what its teachers have seen. The same holds
for a teacher of the judge's family, since the two have similar features.
"""

import hashlib
from collections.abc import Sequence

from gan_vkd.evaluation.settings import INCEPTION
from gan_vkd.game.settings import Settings
from gan_vkd.runtime.checkpoint import load_state
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import user_path
from gan_vkd.teachers.cifar_resnet import CIFAR_RESNET_FILES
from gan_vkd.teachers.settings import NetworkSettings

# Parts of timm's tags for weights, and the image sets behind them; a tag may contain several.
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

# Name prefixes of networks of one design, trained in one way on the same images.
FAMILIES = ("cifar_resnet", "timm/tf_efficientnet_lite")

# data.source of `vkd teach`. A folder may hold any images, even those of another set.
KNOWN_SOURCES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "digits"}


def trained_on(network: NetworkSettings) -> set[str] | None:
    """The image sets that a network's weights were trained on; None: unknown.

    Local weights count as the published ones only where that can be verified.
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
            state = load_state(user_path(network.weights))
            source = str(state["settings"]["data"]["source"])
            return {KNOWN_SOURCES[source]} if source in KNOWN_SOURCES else None
        except (VkdError, KeyError, TypeError):
            return None
    return None


def _is_published(resnet: NetworkSettings) -> bool:
    """Whether the weights are the published ones, whose file name has the start of the SHA-256."""
    if resnet.weights is None:
        return True
    depth = resnet.name.removeprefix("cifar_resnet")
    published = CIFAR_RESNET_FILES.get(int(depth)) if depth.isdigit() else None
    path = user_path(resnet.weights)
    if published is None or not path.is_file():
        return False
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return digest.startswith(published.partition("-")[2].removesuffix(".th"))


def start(settings: Settings) -> str:
    """Says which weights a run started from, and what of them was not trained; "" for a run that
    started anew."""
    kept = settings.train.freeze_d
    facts = [f"started from {settings.init_from}"] if settings.init_from is not None else []
    if kept:
        facts.append(f"the {kept} lowest layers of the discriminator not trained (train.freeze_d)")
    return ", ".join(facts)


def relation(teacher: NetworkSettings, judges: Sequence[NetworkSettings]) -> str:
    """Says of each judge whether the teacher has seen its training images or is of its family, and
    warns where the teacher is of every judge's family."""
    alone = len(judges) == 1
    clauses = [_clause(teacher, j, "the judge" if alone else f"judge {j.name}") for j in judges]
    if all(_is_itself(teacher, judge) or _same_family(teacher, judge) for judge in judges):
        clauses.append("no judge is of another family than this teacher: add one (evaluate.also)")
    return "; ".join(clauses)


def _clause(teacher: NetworkSettings, judge: NetworkSettings, who: str) -> str:
    named = f"teacher {teacher.name}"
    if _is_itself(teacher, judge):
        return f"{named} is {who} itself"
    teacher_sets, judge_sets = trained_on(teacher), trained_on(judge)
    family = f"{named} is of {who}'s family" if _same_family(teacher, judge) else ""
    if teacher_sets is None or judge_sets is None:
        return family or f"{named}: not known whether it has seen {who}'s training images"
    if both := sorted(teacher_sets & judge_sets):
        begin = f"{family} and" if family else named
        return f"{begin} has seen {who}'s training images ({', '.join(both)})"
    sets = ", ".join(sorted(teacher_sets)), ", ".join(sorted(judge_sets))
    return f"{named} ({sets[0]}) has not seen {who}'s training images ({sets[1]})"


def _is_itself(teacher: NetworkSettings, judge: NetworkSettings) -> bool:
    return (teacher.name, teacher.weights) == (judge.name, judge.weights)


def _same_family(teacher: NetworkSettings, judge: NetworkSettings) -> bool:
    both = teacher.name, judge.name
    return any(all(name.startswith(family) for name in both) for family in FAMILIES)
