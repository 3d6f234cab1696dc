"""`vkd train PATH`: looks at the pictures, says what was chosen and why, and trains."""

import os
from pathlib import Path
from typing import Any

import yaml

from gan_vkd.auto.choose import Choice, choose, flat, tree_of
from gan_vkd.auto.estimate import Estimate, estimate
from gan_vkd.auto.look import Pictures, look
from gan_vkd.auto.machine import Machine, this_machine
from gan_vkd.auto.reference import name_of
from gan_vkd.evaluation.few import FEW, WARNINGS
from gan_vkd.game.settings import Settings
from gan_vkd.runtime import ranks
from gan_vkd.runtime.dry_run import Needs, duration, in_words, pace
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.settings_file import merged, merged_items, merged_trees, validated
from gan_vkd.runtime.terminal import result
from gan_vkd.training import train

LONGEST = 34  # characters of a shown value


def train_pictures(
    path: Path,
    items: list[str],
    size: int | None = None,
    out: Path | None = None,
    max_time: float | None = None,
    dry_run: bool = False,
) -> None:
    """Chooses the settings, prints them with an estimate of time and memory, and trains.

    A run that is there already is continued with its own settings.

    Args:
        path: a folder or zip of pictures.
        items: key=value and +NAME of the user, which precede what is chosen.
        size: data.resolution; None: chosen.
        out: the run folder; None: runs/NAME-SIZE.
        max_time: seconds after which the run stops, with a checkpoint.
        dry_run: print everything and stop.

    Raises:
        SettingsError: invalid settings, or those of another run in the run folder.
        VkdError: unusable pictures, and all errors of a run.
    """
    if ranks.launched():
        raise SettingsError(
            f"{path}: under torchrun give settings or a run folder; `vkd train {path}` in one "
            "process makes a run folder, which torchrun continues with --resume"
        )
    path = Path(os.path.abspath(user_path(path)))  # a source, not the name of a registered set
    if not path.exists():
        raise SettingsError(f"{path}: no such folder or zip")
    asked, values = _asked(path, items, size)
    if "source" in asked.get("data", {}):
        raise SettingsError(f"{path} and data.source: give one of them")
    if size is not None and "resolution" in asked.get("data", {}):
        raise SettingsError(f"--size {size} and data.resolution: give one of them")
    pictures = look(path)
    given = flat(asked)
    judged = not any(key.startswith("evaluate.features") for key in given)
    machine = this_machine(str(given.get("device", "auto")), judged)
    choices = choose(str(path), pictures, machine, given, size)
    tree = merged_trees(tree_of(choices), asked)
    settings = validated(Settings, tree, str(path), values)
    folder = out or Path("runs", "".join(f"{name_of(path)}-{settings.data.shape}".split()))
    if user_path(folder).resolve() == path.resolve():
        raise SettingsError(f"--out {folder}: is the folder of the pictures; give another one")
    if user_path(folder).exists() and not user_path(folder).is_dir():
        raise SettingsError(f"--out {folder}: is a file; give a folder")
    _require_others(settings)
    asked_for = settings.data.num_images or 0
    if asked_for > pictures.count:
        raise SettingsError(f"data.num_images = {asked_for}: {path} has {pictures.count} pictures")
    started = not dry_run and (user_path(folder) / "settings.yaml").exists()
    if started:
        held = ("data.source", "data.resolution") if size else ("data.source",)
        now = tree_of([choice for choice in choices if choice.key in held])
        tree = merged_trees(merged(folder), merged_trees(now, asked))
        settings = validated(Settings, tree, str(folder), values)
    print(described(path, pictures, machine))
    if started:
        print(f"{folder}: continues with its own settings")
    else:
        print(table(choices, settings))
        classes = [""]
        if settings.data.conditional and pictures.classes:
            classes = sorted(pictures.classes)
        found = estimate(settings, classes, pictures.count, machine.device)
        where = (
            f"results: {folder} (samples/, settings.yaml). Ctrl-C stops with a checkpoint; the "
            f"same command, or vkd train {folder} --resume, continues"
        )
        needs = needs_of(found, f"{expected(found, settings, machine)}\n{where}")
        if dry_run:
            result(needs.text, run=folder, settings=settings.model_dump(mode="json"), **needs.facts)
        else:
            print(needs.text)
    if not dry_run:
        train(settings, folder, resume=True, max_time=max_time)


def _asked(path: Path, items: list[str], size: int | None) -> tuple[dict[str, Any], list[str]]:
    """The user's settings as a tree, and those given as key=value.

    Raises:
        SettingsError: invalid ones, before anything is looked at.
    """
    asked, values = merged_items(items)
    data = {"source": str(path), "resolution": 32 if size is None else size}
    usual = {"arm": "none", "data": data, "model": {"name": "stylegan2"}}
    validated(Settings, merged_trees(usual, asked), str(path), values)
    return asked, values


def _require_others(settings: Settings) -> None:
    """Looks at the held-out and reference pictures, if any, before the estimate.

    Raises:
        SettingsError: evaluate.reference=heldout without data.heldout.
        VkdError: unusable ones.
    """
    heldout, reference = settings.data.heldout, settings.evaluate.reference
    if settings.evaluate.judges and reference == "heldout" and heldout in (None, "test"):
        raise SettingsError("evaluate.reference = heldout: give data.heldout=FOLDER as well")
    for key, other in (("data.heldout", heldout), ("evaluate.reference", reference)):
        if other not in (None, "test", "heldout", "train"):
            try:
                look(user_path(other))
            except VkdError as error:
                raise VkdError(f"{key} = {other}: {error}") from None


def described(path: Path, pictures: Pictures, machine: Machine) -> str:
    """What was found out about the pictures and the machine, in a few lines."""
    p, (low, high) = pictures, (pictures.smallest, pictures.largest)
    sizes = f"{low[0]} x {low[1]}"
    if high != low:
        sizes += f" to {high[0]} x {high[1]}, shorter sides {p.side:.0f} (median)"
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in (p.formats or {}).items())
    lines = [f"{path}: {p.count:,} pictures ({kinds}), {sizes}"]
    if p.classes:
        fewest, most = min(p.classes.values()), max(p.classes.values())
        lines.append(f"{len(p.classes)} class folders of {fewest:,} to {most:,} pictures")
    if p.damaged:
        lines.append(f"{p.damaged:,} files are damaged, animated or no pictures, and left out")
    if p.square < 1:
        lines.append(f"{1 - p.square:.0%} not square (width / height {p.aspect:.2f}, median)")
    if p.transparent:
        lines.append(f"{p.transparent:.0%} transparent")
    if p.grey:
        lines.append(f"{int(100 * p.grey)}% grey{', 16 bits' if p.deep else ''}")
    if p.count < FEW:
        lines.append(f"{WARNINGS['few pictures']}: docs/few_pictures.md")
    return "\n".join([*lines, f"this machine: {machine}"])


def table(choices: list[Choice], settings: Settings) -> str:
    """One line for each choice: key, value, why."""
    rows = [(choice.key, _shown(choice), choice.why) for choice in choices]
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return "\n".join(f"  {k:<{widths[0]}}  {v:<{widths[1]}}  {why}" for k, v, why in rows)


def _shown(choice: Choice) -> str:
    text = yaml.safe_dump(choice.value, default_flow_style=True, width=1000)
    text = text.removesuffix("\n").removesuffix("\n...")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def needs_of(found: Estimate, text: str) -> Needs:
    return Needs(text, found.networks, found.iteration, found.total, found.memory, found.file)


def expected(found: Estimate, settings: Settings, machine: Machine) -> str:
    """The networks and the estimate of time and memory."""
    train = settings.train
    images = train.batch_size * train.d_steps / found.iteration
    earliest = min(train.sample_first or train.sample_every, train.iterations)
    first = earliest * found.iteration + found.grid
    where = "of memory" if machine.is_cpu else "on the GPU"
    lines = [
        in_words(found.networks),
        f"{duration(found.total)} for {train.iterations:,} iterations of "
        f"{pace(found.iteration)} ({images:.0f} images/s), measured on a few; first samples "
        f"after {duration(first)}",
    ]
    if found.evaluation:
        lines.append(
            f"of it {duration(found.evaluation)} an evaluation, and {duration(found.reference)} "
            "once for the features of the pictures"
        )
    lines += [
        f"{found.memory / 2**30:.1f} GiB {where} at the peak; {found.file / 2**20:.0f} MiB a "
        f"checkpoint, {train.keep_checkpoints + 1} are kept",
    ]
    return "\n".join(lines)
