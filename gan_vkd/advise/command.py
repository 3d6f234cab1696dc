"""`vkd advise PICTURES`: measures teachers on some of the pictures and says which one to take."""

import os
from pathlib import Path

from gan_vkd.advise.candidates import SHIPPED, at_hand, named
from gan_vkd.advise.choice import alternatives, ranked
from gan_vkd.advise.measure import POLICY, Candidate, Row, measure, prepare
from gan_vkd.advise.tables import command, of_layers, of_normalizations
from gan_vkd.auto.choose import choose, flat, tree_of
from gan_vkd.auto.look import look
from gan_vkd.auto.machine import this_machine
from gan_vkd.data.image_set import ImageSet, draw_subset, why_no_classes
from gan_vkd.data.sets import load_some
from gan_vkd.game.settings import Settings
from gan_vkd.report.tables import as_csv, markdown
from gan_vkd.runtime.devices import pick_device
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.files import require_writable, user_path, write_text
from gan_vkd.runtime.settings_file import merged_items, merged_trees, validated
from gan_vkd.teachers.settings import NetworkSettings

FEWEST = 100  # pictures that are measured, however slow the teachers are
PASSES = 3  # forwards of a picture: itself and two views
READING = """\
score: geometric mean of found again and probe. effective rank: of the features' covariance.
agreement: share of their variance that two views of a picture have in common. found again: pictures
whose second view is, of all, nearest to their first one. directions: principal ones that correlate
by 0.5 or more between the views. probe: accuracy of a linear classifier on held-out pictures, 95%
interval. Times are measured here. docs/advise.md"""


def advise(
    path: Path,
    items: list[str],
    teachers: list[str],
    size: int | None = None,
    images: int = 1000,
    seconds: float = 240,
    out: Path | None = None,
) -> str:
    """Measures teachers, and returns the tables and the command that trains with the best one.

    The pictures are brought into the form in which `vkd train PICTURES` would train on them.

    Args:
        path: a folder or zip of pictures.
        items: key=value and +NAME of the user; a teacher that they name is measured too.
        teachers: NAME[@SIZE][=FILE]; without any, those whose weights are on this machine.
        size: data.resolution; None: chosen.
        images: the largest number of pictures that is measured.
        seconds: for the forwards, by which the number is reduced down to FEWEST.
        out: FILE.md for the text, FILE.csv for the tables.

    Raises:
        SettingsError: invalid settings, or a teacher or layer that does not exist.
        VkdError: unusable pictures, one picture, no teacher, or weights that cannot be had.
    """
    if out is not None and out.suffix.lower() not in (".md", ".csv"):
        raise SettingsError(f"--out {out}: expected a name that ends in .md or .csv")
    if out is not None:
        require_writable(out)
    path = Path(os.path.abspath(user_path(path)))
    settings = _settings(path, items, size)
    asked = [named(name) for name in teachers]
    if settings.distill is not None:
        asked.append(settings.distill.teacher)
    if not (found := asked or at_hand()):
        raise VkdError(
            "no teacher found: none is named, and no weights are on this machine; give --teacher "
            "NAME=FILE, or --teacher NAME to fetch published weights: " + ", ".join(SHIPPED)
        )
    pictures = load_some(settings.data, images)
    if len(pictures) < 2:
        raise VkdError(f"{path}: one picture; it takes two to compare teachers")
    candidates = _prepared(found, pictures, settings, refuse=bool(asked))
    used = _affordable(candidates, pictures, seconds, settings.data.seed)
    rows = ranked([row for one in candidates for row in measure(one, used, settings.seed)])
    others = alternatives(rows[0])
    tables = {"layers": of_layers(rows), "normalisations": of_normalizations(others)}
    shown = "\n\n".join(
        [
            _about(path, pictures, used, rows, settings.data.seed),
            markdown(tables["layers"]),
            READING,
            "Normalisations of the first line; the first one is in the command:",
            markdown(tables["normalisations"]),
            command(path, items, size, rows[0]),
        ]
    )
    if out is not None:
        write_text(out, as_csv(tables) if out.suffix.lower() == ".csv" else f"{shown}\n")
    return shown


def _about(path: Path, pictures: ImageSet, used: ImageSet, rows: list[Row], seed: int) -> str:
    """What was measured."""
    few = f", fewer than {len(pictures)} for --seconds" if len(used) < len(pictures) else ""
    number, probed = len(used.labels.unique()), ""
    if rows[0].probe is None:
        alone = "fewer than two classes have two pictures"
        probed = f"; no probe: {alone if number > 1 else why_no_classes(used.names)}"
    return (
        f"{path}: {len(used)} pictures at {used.shape} pixels (data.seed {seed}{few}), in {number} "
        f"class{'es' * (number > 1)}{probed}; two views of each by {', '.join(POLICY)}"
    )


def _settings(path: Path, items: list[str], size: int | None) -> Settings:
    """The settings with which `vkd train PICTURES` would train."""
    asked, values = merged_items(items)
    device = str(asked.get("device", "auto"))
    choices = choose(str(path), look(path), this_machine(device, judged=False), flat(asked), size)
    return validated(Settings, merged_trees(tree_of(choices), asked), str(path), values)


def _prepared(
    teachers: list[NetworkSettings], data: ImageSet, settings: Settings, refuse: bool
) -> list[Candidate]:
    """The teachers that can be loaded; refuse: raise the error of one that cannot."""
    device, ready = pick_device(settings.device), list[Candidate]()
    for teacher in teachers:
        try:
            ready.append(prepare(teacher, data, device, settings.data.backdrop))
        except VkdError as error:
            if refuse:
                raise
            print(f"left out: {error}")
    if not ready:
        raise VkdError("no teacher found: those on this machine cannot be loaded, see above")
    return ready


def _affordable(candidates: list[Candidate], data: ImageSet, seconds: float, seed: int) -> ImageSet:
    """As many of the pictures as all teachers together measure in the time, at least FEWEST."""
    each = PASSES * sum(candidate.seconds for candidate in candidates)
    count = max(int(seconds / each), FEWEST)
    if count >= len(data):
        return data
    return data.subset(draw_subset(data.names, data.labels.tolist(), count, seed))
