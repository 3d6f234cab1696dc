"""What the shell completes: run folders, names of settings, and their keys. Imports no torch."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gan_vkd.runtime.settings_names import SHIPPED, shipped_names


def run_names(incomplete: str) -> list[str]:
    """Run folders, and folders on the way to them."""
    return [
        str(folder) if (folder / "settings.yaml").is_file() else f"{folder}/"
        for folder in _beginning_with(incomplete)
        if folder.is_dir()
    ]


def settings_names(incomplete: str) -> list[str]:
    """Shipped names and own YAML files, also after "+"; run folders where there is no "+"."""
    before, plus, name = incomplete.rpartition("+")
    own = [str(file) for file in _beginning_with(name) if file.suffix == ".yaml"]
    found = [f"{before}{plus}{n}" for n in [*shipped_names(), *own] if n.startswith(name)]
    return found if plus else [*found, *run_names(incomplete)]


def setting_items(incomplete: str) -> list[str]:
    """+NAME, and the keys of the shipped settings that begin so, one level at a time."""
    if incomplete.startswith("+"):
        return settings_names(incomplete)
    level = incomplete.count(".")
    keys = (key.split(".") for key in _shipped_keys() if key.startswith(incomplete))
    return sorted({_item(parts, level) for parts in keys})


def _item(parts: list[str], level: int) -> str:
    whole = len(parts) == level + 1
    return ".".join(parts[: level + 1]) + ("=" if whole else ".")


def _beginning_with(text: str) -> list[Path]:
    folder, name = (Path(text), "") if text.endswith("/") else (Path(text).parent, Path(text).name)
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    hidden = name.startswith(".")
    return [p for p in found if p.name.startswith(name) and (hidden or p.name[0] != ".")]


def _shipped_keys() -> Iterator[str]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
    for file in SHIPPED.rglob("*.yaml"):
        yield from _keys(yaml.load(file.read_text(encoding="utf-8"), loader), "")


def _keys(tree: Mapping[str, Any], before: str) -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _keys(value, f"{before}{key}.")
        elif key != "base":
            yield f"{before}{key}"
