"""References to settings: paths, names of shipped files and key.sub=value, joined by "+".

`cifar10_10pct+methods/whitening` is the shipped experiment with the shipped method on top;
`cifar10_10pct+methods/whitening+distill.method.projection=linear+arm=linear` is a variant of it.
"""

import difflib
import os
import re
from itertools import takewhile
from pathlib import Path

import gan_vkd
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.files import user_path

LONGEST = 100  # characters of a description
_PACKAGE = Path(gan_vkd.__file__).parent
# Inside the package when installed from a wheel, beside it in a checkout
SHIPPED = next(
    (f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if f.is_dir()), _PACKAGE
)


def files_of(reference: Path) -> list[Path]:
    """Returns the settings files of a reference; each overrides those before it.

    A part is a path or the name of a shipped file; ".yaml" may be left out. Parts after the first
    are also searched in the folder of the first. A file with a "+" in its own name is found under
    that name; a run folder stands for its settings.yaml.

    Raises:
        SettingsError: a part is not a file; the message has the closest name.
    """
    return _resolved(reference)[0]


def values_of(reference: Path) -> list[str]:
    """Returns the key.sub=value parts of a reference, which override all its files.

    Raises:
        SettingsError: as in `files_of`.
    """
    return _resolved(reference)[1]


def _resolved(reference: Path) -> tuple[list[Path], list[str]]:
    first, plus, others = str(reference).partition("+")
    reference = Path(f"{user_path(first)}{plus}{others}") if first else reference
    whole = file_named(str(reference))
    stored = reference / "settings.yaml"
    if os.path.exists(stored) or (whole is None and os.path.isdir(reference)):
        return [stored], []
    if whole is not None:
        return [whole], []
    files: list[Path] = []
    values: list[str] = []
    for part in str(reference).split("+"):
        if not part:
            raise SettingsError(f'{reference}: expected a name before and after each "+"')
        places = [Path(), *(file.parent for file in files[:1]), SHIPPED]
        file = _find(part, places)
        if file is not None:
            files.append(file)
        elif files and "=" in part:
            values.append(part)
        else:
            raise SettingsError(f"{part}: no such settings file{_nearby(Path(part), places)}")
    return files, values


def file_named(name: str) -> Path | None:
    """Returns the settings file of this path, or the shipped one of this name; None: no such."""
    return _find(name, [Path(), SHIPPED])


def extended(reference: Path, items: list[str]) -> tuple[Path, list[str]]:
    """Appends items that start with "+" to the reference; returns it and the other items."""
    added = [item for item in items if item.startswith("+")]
    return Path("".join([str(reference), *added])), [item for item in items if item not in added]


def short_name(reference: Path) -> str:
    """Returns the name of its runs: cifar10_10pct_whitening for cifar10_10pct+methods/whitening.

    Of the values only arm=NAME becomes part of the name.

    Raises:
        SettingsError: a part is not a file.
    """
    if os.path.isdir(reference):
        return reference.name
    files, values = _resolved(reference)
    arms = [value.removeprefix("arm=") for value in values if value.startswith("arm=")]
    names = [file.name.removesuffix(".yaml") for file in files]
    return "_".join([*names, *(re.sub(r"\W+", "_", arm) for arm in arms)])


def shipped_names() -> list[str]:
    """Returns the names of all shipped files, as references use them."""
    files = sorted(SHIPPED.rglob("*.yaml"))
    return [file.relative_to(SHIPPED).as_posix().removesuffix(".yaml") for file in files]


def description(name: str) -> str:
    """The first sentence of the comment on top of a shipped file, of at most LONGEST characters."""
    lines = (SHIPPED / f"{name}.yaml").read_text(encoding="utf-8").split("\n")
    comment = " ".join(line[1:].strip() for line in takewhile(lambda x: x.startswith("#"), lines))
    sentence = comment.partition(". ")[0].removesuffix(".")
    return sentence if len(sentence) <= LONGEST else f"{sentence[: LONGEST - 3]}..."


def _find(name: str, places: list[Path]) -> Path | None:
    candidates = [place / f"{name}{suffix}" for place in places for suffix in ("", ".yaml")]
    existing = (file for file in candidates if os.path.exists(file) and not os.path.isdir(file))
    return next(existing, None)


def _nearby(path: Path, places: list[Path]) -> str:
    folders = [place / path.parent for place in places]
    files = [f for folder in folders if os.path.isdir(folder) for f in folder.glob("*.yaml")]
    names = [str(path.parent / file.name.removesuffix(".yaml")) for file in files]
    near = difflib.get_close_matches(str(path).removesuffix(".yaml"), names, n=1)
    suffix = path.suffix if path.suffix == ".yaml" else ""
    return f"; did you mean {near[0]}{suffix}?" if near else ""
