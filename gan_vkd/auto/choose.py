"""Chooses settings from what is known of the pictures and the machine: a table of rules.

The same facts give the same settings. A value that the user gives is never replaced, and rules that
depend on it follow it. ADA is StyleGAN2-ADA's automatic configuration (Karras et al., NeurIPS 2020;
published code, `--cfg=auto`) for one GPU. Rules without a source are our own.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from gan_vkd.auto.look import NEAR, Pictures
from gan_vkd.auto.machine import Machine
from gan_vkd.data.shape import Shape
from gan_vkd.networks.interface import NETWORKS, Architecture

SIDES = Architecture.resolutions
ALIKE = 0.9  # share of pictures of about the same aspect that are not cropped to squares
MOSTLY = 0.5  # share of transparent pictures whose transparency is kept
CPU_SIDE = 64  # largest size that is chosen for a CPU
GPU_SIDES = ((16, 512), (8, 256), (0, 128))  # largest size from so many GiB of a GPU's memory on
FEWEST_IN_CLASS = 10  # pictures for each class, on average, that are worth a condition
THOUSANDS = {"cpu": 100, "gpu": 5_000}  # real images that a run sees
SAMPLES = {"cpu": 1_000, "gpu": 10_000}  # of an evaluation
EVALUATIONS = 10
FEWEST_BETWEEN = 200  # iterations between two evaluations


class Choice(NamedTuple):
    """A setting by its key, its value, and why; `given`: by the user."""

    key: str
    value: Any
    why: str
    given: bool = False


class Picks:
    """The choices so far. Calling it adds one and returns the value that holds.

    asked: the user's settings by dotted key.
    """

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self.asked, self.choices = asked, list[Choice]()

    def __call__(self, key: str, value: Any, why: str) -> Any:
        given = self.gives(key)
        if given:
            value, why = self.given(key, value), "given"
        self.choices.append(Choice(key, value, why, given))
        return value

    def gives(self, key: str) -> bool:
        """Whether the user gives the setting, or a part of it."""
        return any(name == key or name.startswith(f"{key}.") for name in self.asked)

    def given(self, key: str, otherwise: Any) -> Any:
        """The user's value, or what the user gives below the key."""
        below = {k[len(key) + 1 :]: v for k, v in self.asked.items() if k.startswith(f"{key}.")}
        return self.asked.get(key, below or otherwise)


def choose(
    path: str,
    pictures: Pictures,
    machine: Machine,
    asked: Mapping[str, Any] | None = None,
    size: int | None = None,
) -> list[Choice]:
    """Chooses everything that `path`'s pictures need on the machine.

    Args:
        path: of the folder or zip.
        pictures, machine: the facts.
        size: of the longer side; None: chosen.
        asked: settings of the user by dotted key: {"data.resolution": 128, "model.name": "biggan"}.

    Returns:
        The choices in the order in which they are shown, those of the user among them.
    """
    asked = dict(asked or {})
    if isinstance(asked.get("model"), str):
        asked["model.name"] = asked.pop("model")
    pick = Picks(asked)
    kind = "cpu" if machine.is_cpu else "gpu"
    network = _network(pick)
    height, width = _data(pick, path, pictures, machine, network, size)
    batch = _game(pick, network, height, width, machine)
    iterations = _length(pick, batch, kind)
    _augmentation(pick, iterations * batch, machine)
    _evaluation(pick, _number(pick, pictures), iterations, machine)
    pick("arm", "none", "row of its table in vkd compare")
    pick("seed", 0, "of weights, order and random numbers")
    pick("distill", None, "no teacher: name one, e.g. +methods/clip +methods/whitening")
    return pick.choices


def _network(pick: Picks) -> str:
    name: str = pick("model.name", "stylegan2", "takes all sizes from 32 to 512")
    return name


def _data(
    pick: Picks,
    path: str,
    pictures: Pictures,
    machine: Machine,
    network: str,
    size: int | None,
) -> tuple[int, int]:
    pick("data.source", path, "the pictures")
    why = "--size" if size else _why_size(pictures, machine)
    sides = _sides(size or _size(pictures, machine, network), pictures, network)
    if isinstance(sides, list):
        why += f"; width / height of {pictures.alike:.0%} are about {pictures.aspect:.2f}"
    sides = pick("data.resolution", sides, why)
    height, width = sides if isinstance(sides, list) else (sides, sides)
    pick("data.channels", *_channels(pictures, pick.gives("data.background")))
    classes = pictures.classes or {}
    each = pictures.count / max(len(classes), 1)
    conditional, why = False, "no class folders" if not classes else "one folder only"
    if len(classes) > 1:
        conditional = each >= FEWEST_IN_CLASS
        limit = "at least" if conditional else "fewer than"
        why = f"{len(classes)} class folders with {limit} {FEWEST_IN_CLASS} pictures on average"
    pick("data.conditional", conditional, why)
    pick("data.flip", True, "mirror images count as real; false for text or where sides matter")
    pick("data.damaged", "skip", "files that cannot be read are left out and listed")
    pick("data.heldout", None, "no pictures are kept back: all are trained on")
    return height, width


def _channels(pictures: Pictures, flattened: bool) -> tuple[int, str]:
    """flattened: the user gives the background that transparency is put on."""
    if pictures.transparent and flattened:
        return 3, "transparency is put on data.background"
    if pictures.transparent >= MOSTLY:
        return 4, f"{pictures.transparent:.0%} of the pictures are transparent"
    if pictures.grey == 1:
        return 1, "all pictures are grey"
    why = "colour" if pictures.grey < MOSTLY else "some of the pictures have colours"
    return 3, why + "; transparency is put on white" * (pictures.transparent > 0)


def _sides(size: int, pictures: Pictures, network: str) -> int | list[int]:
    """[height, width] with the longer side `size`, if most pictures share an aspect; or a square.

    The shorter side is the nearest that the network takes.
    """
    longer = max(pictures.aspect, 1 / pictures.aspect)
    networks = NETWORKS.get(network)
    if (
        not getattr(networks, "any_aspect", False)
        or pictures.alike < ALIKE
        or math.log(longer) < NEAR
    ):
        return size
    squares = getattr(networks, "resolutions", SIDES)
    fitting = [side for side in range(1, size) if Shape(3, side, size).square in squares]
    shorter = min([*fitting, size], key=lambda side: abs(math.log(size / side / longer)))
    if shorter == size:
        return size
    return [shorter, size] if pictures.aspect > 1 else [size, shorter]


def _size(pictures: Pictures, machine: Machine, network: str) -> int:
    """The largest size that the network, the median picture and the machine carry."""
    sides = getattr(NETWORKS.get(network), "resolutions", SIDES)
    most = min(pictures.side, _machine_side(machine))
    return max((side for side in sides if side <= most), default=min(sides))


def _machine_side(machine: Machine) -> int:
    if machine.is_cpu:
        return CPU_SIDE
    return next(side for memory, side in GPU_SIDES if machine.memory >= memory)


def _why_size(pictures: Pictures, machine: Machine) -> str:
    if pictures.side < _machine_side(machine):
        return f"shorter sides are {pictures.side:.0f} pixels (median)"
    return f"largest size chosen for {machine.device.upper()}; --size takes up to {max(SIDES)}"


def _number(pick: Picks, pictures: Pictures) -> int:
    """Number of pictures that are trained on."""
    share = pick.given("data.fraction", 1) or 1
    return int(pick.given("data.num_images", None) or round(share * pictures.count))


def _game(pick: Picks, network: str, height: int, width: int, machine: Machine) -> int:
    """The networks' game; another network than StyleGAN2 keeps the defaults of the settings."""
    if network != "stylegan2":
        batch: int = pick("train.batch_size", 32, "our own default")
        return batch
    if machine.is_cpu:
        pick("model.channel_base", 2048, "an eighth of ADA's width, for a CPU")
        pick("model.channel_max", 128, "a quarter of ADA's width, for a CPU")
        for latent in ("model.z_dim", "model.w_dim"):
            pick(latent, 256, "half of ADA's, for a CPU")
        batch = pick("train.batch_size", 16, "twice the updates of ADA's 32, for a CPU")
    else:
        pick("model.channel_base", "auto", "ADA: 16,384, from 512 pixels on 32,768")
        most = max(min(4096 // max(height, width), 32), 1)
        batch = pick("train.batch_size", most, "ADA: min(32, 4096 / size)")
    pick("adversary", "non_saturating", "ADA")
    weight = 0.0002 * height * width / batch
    pick("regularize.r1", "auto", f"ADA: 0.0002 height width / batch = {weight:.3g}")
    pick("regularize.r1_every", 16, "ADA")
    if machine.is_cpu:
        pick("regularize.path_length", 0, "ADA has 2; none, for a CPU, as in its CIFAR settings")
    else:
        pick("regularize.path_length", 2, "ADA")
    pick("train.d_steps", 1, "ADA")
    for rate in ("train.g_lr", "train.d_lr"):
        pick(rate, 2.5e-3, "ADA, below 1024 pixels")
    pick("train.betas", [0.0, 0.99], "ADA")
    why = "ADA: batch * 10 / 32 thousand images, at most 5% of the images so far"
    pick("train.ema_decay", {"half_life": "auto", "ramp_up": 0.05}, why)
    pick("train.ema_start", 0, "ADA: averaged from the start")
    return batch


def _length(pick: Picks, batch: int, kind: str) -> int:
    thousands = THOUSANDS[kind]
    of = "for a CPU" if kind == "cpu" else "a fifth of ADA's 25 million"
    why = f"{thousands:,} thousand images, {of}; stop at any time, or give another"
    iterations: int = pick("train.iterations", math.ceil(thousands * 1000 / batch), why)
    return iterations


def _augmentation(pick: Picks, images: int, machine: Machine) -> None:
    """DiffAugment where p of ADA, which rises by 1 in 500,000 images, would stay near 0."""
    if machine.is_cpu:
        why = "DiffAugment; too short for ADA, and cutout leaks into samples"
        pick("augment", ["color", "translation"], why)
        return
    kimg = max(1, min(500, round(images / 10_000)))
    why = "ADA: p rises to 1 in 500 thousand images, at most a tenth of the run"
    pick("augment", [{"name": "ada", "kimg": kimg}], why)


def _evaluation(pick: Picks, number: int, iterations: int, machine: Machine) -> None:
    every, why = max(math.ceil(iterations / EVALUATIONS), FEWEST_BETWEEN), "at the end"
    if every < iterations:
        why = f"{EVALUATIONS} times, at least {FEWEST_BETWEEN} iterations apart"
    every = pick("evaluate.every", min(every, iterations), why)
    pick("train.sample_first", 16, "grids of samples after 16, 32, 64, ... iterations")
    pick("train.sample_every", every, "and at each evaluation")
    pick("train.checkpoint_every", max(1, every // 5), "a fifth of that is lost at most")
    pick("train.logger", "tensorboard", "tensorboard --logdir RUN")
    pick("evaluate.features", *_judge(number, machine))
    pick("evaluate.reference", *_reference(pick))
    kind = "cpu" if machine.is_cpu else "gpu"
    why = "usual number" if kind == "gpu" else "for a CPU; compares checkpoints, not papers"
    pick("evaluate.num_samples", SAMPLES[kind], why)


def _judge(number: int, machine: Machine) -> tuple[dict[str, str] | None, str]:
    if number < 2:
        return None, "no distance: it takes two pictures"
    if machine.is_cpu:
        return None, "no distance: Inception is slow on a CPU; vkd evaluate RUN --inception FILE"
    if machine.inception == "absent":
        return None, "no distance: Inception is neither here nor reachable; look at samples/"
    where = "is here" if machine.inception == "here" else "will be fetched (91 MiB)"
    return {"name": "inception"}, f"FID; Inception {where}"


def _reference(pick: Picks) -> tuple[str, str]:
    if pick.given("data.heldout", None) not in (None, "test"):
        return "heldout", "pictures that are not trained on"
    return "train", "none is held out, so copies of the pictures score best"


def tree_of(choices: list[Choice]) -> dict[str, Any]:
    """The choices as a tree, as a settings file has it, to merge the user's settings into."""
    tree: dict[str, Any] = {}
    for key, value, _, given in choices:
        *parts, last = key.split(".")
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
        if not given or not isinstance(value, Mapping):  # a part of the user's is no setting
            node[last] = value
    return tree


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings of a tree by dotted key."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found
