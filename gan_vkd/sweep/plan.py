"""Arms x seeds: the runs of a sweep and the command that trains each."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gan_vkd.runtime.components import OneOf, one_of
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.folder import RunFolder
from gan_vkd.runtime.progress import is_finished
from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings import RunSettings
from gan_vkd.runtime.settings_names import extended, short_name, values_of


class Program(NamedTuple):
    """The training program of a sweep.

    command: of its process, before `train`.
    load: reads settings with overrides.
    """

    command: list[str]
    load: Callable[[Path, list[str]], RunSettings]


class Job(NamedTuple):
    """A run of a sweep: one arm at one seed."""

    name: str
    folder: Path
    log: Path
    command: list[str]
    device: str  # of its settings
    finished: bool  # before the sweep started


def read_arguments(
    arguments: list[str], seeds: list[str] | None
) -> tuple[list[Path], list[int], list[str]]:
    """Parses `CONFIG[+NAME][+key=value]... --seeds 0 1 2 key=value`.

    Args:
        arguments: the positional arguments, which include the seeds after the first.
        seeds: values of --seeds, each a number or several with commas; None (not given) is seed 0.

    Returns:
        Settings of each arm, seeds, and overrides for all arms.

    Raises:
        SettingsError: a seed is not a number, or there are numbers without --seeds.
    """
    numbers = [item for item in arguments if item.isdecimal()]
    if numbers and seeds is None:
        raise SettingsError(f"{numbers[0]}: expected a settings file; seeds follow --seeds")
    listed = [part for item in seeds or ["0"] for part in re.split("[, ]+", item)] + numbers
    for part in listed:
        if not part.isdecimal():
            raise SettingsError(f"--seeds {part}: expected whole numbers, as in --seeds 0 1 2")
    rest = [item for item in arguments if item not in numbers]
    overrides = [item for item in rest if _is_override(item)]
    configs: list[Path] = []
    for item in [item for item in rest if item not in overrides]:
        if item.startswith("+") and configs:  # belongs to the settings before it
            configs[-1] = extended(configs[-1], [item])[0]
        else:
            configs.append(Path(item))
    return configs, [int(part) for part in listed], overrides


def _is_override(item: str) -> bool:
    """Returns whether it applies to all arms; a "+" before the "=" makes it part of one arm."""
    key, equals, _ = item.partition("=")
    return bool(equals) and "+" not in key and not os.path.exists(item)


def plan(
    program: Program,
    configs: list[Path],
    seeds: list[int],
    out: Path,
    overrides: list[str],
) -> list[Job]:
    """Returns the runs of a sweep, all arms of a seed together; validates all their settings.

    Raises:
        SettingsError: no arm or seed, or one twice; invalid settings; a folder of another run.
        VkdError: `out` cannot be written.
    """
    arms = [short_name(config) for config in configs]
    for kind, items in (("settings file", arms), ("seed", seeds)):
        twice = [item for place, item in enumerate(items) if item in items[:place]]
        if twice or not items:
            fault = f"{kind} {twice[0]} is given twice" if twice else f"no {kind} is given"
            raise SettingsError(
                f"sweep: {fault}; a run is named by its settings files, its +arm=NAME and its seed"
            )
    given = [*overrides, *(value for config in configs for value in values_of(config))]
    if fixed := [item for item in given if item.partition("=")[0] == "seed"]:
        raise SettingsError(f"{fixed[0]}: the seeds of a sweep are set by --seeds")
    out, jobs = user_path(out), []
    for seed in seeds:
        for config, arm in zip(configs, arms, strict=True):
            chosen = _chosen(program, config, overrides)
            if seed == seeds[0]:
                for item in [item for item in overrides if item not in chosen]:
                    print(f"{arm}: {item} is ignored, since it does not apply to this arm")
            chosen.append(f"seed={seed}")
            settings = program.load(config, chosen)
            folder, log = out / f"{arm}_seed{seed}", out / f"{arm}_seed{seed}.log"
            command = [
                *program.command,
                "train",
                str(config),
                *chosen,
                "--out",
                str(folder),
                "--resume",
            ]
            finished = is_finished(RunFolder(folder), settings, resume=True)
            name = f"{arm} seed {seed}"
            jobs.append(Job(name, folder, log, command, settings.device, finished))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VkdError(f"{out}: cannot be written ({error.strerror})") from None
    return jobs


def arms(
    program: Program, configs: list[Path], overrides: list[str]
) -> list[tuple[str, RunSettings]]:
    """Returns the name of each arm, and its settings with the overrides that concern it."""
    return [
        (short_name(config), program.load(config, _chosen(program, config, overrides)))
        for config in configs
    ]


def _chosen(program: Program, config: Path, overrides: list[str]) -> list[str]:
    plain = program.load(config, [])
    return [item for item in overrides if _concerns(item, plain)]


def _concerns(override: str, settings: RunSettings) -> bool:
    """Returns whether an override applies: the arm has its key, and the key has an effect there."""
    node: Any = settings
    chosen: OneOf | None = None
    for part in override.partition("=")[0].split("."):
        if isinstance(node, Section):
            if part in node.idle:
                return False
            field = type(node).model_fields.get(part)
            if field is None:  # of another component, or an unknown key to refuse
                return chosen is None or not chosen.takes(part)
            node, chosen = getattr(node, part), one_of(field)
        elif isinstance(node, dict):
            node = node.get(part)
        else:
            return node is not None
    return True
