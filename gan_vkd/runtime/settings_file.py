"""Settings as YAML: inherited by `base`, overridden by key=value, checked, each fault in one line.

Of any schema that is made of sections: nothing here knows what is trained.
"""

from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.files import read_text
from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings_faults import in_one_line
from gan_vkd.runtime.settings_names import extended, files_of, values_of
from gan_vkd.runtime.yaml_text import parse_yaml

MOST_BYTES = 2**20  # of a settings file
MOST_FILES = 100  # with all bases
SCALARS = (bool, int, float, date)

Schema = TypeVar("Schema", bound=Section)


def load_as(schema: type[Schema], path: Path, overrides: list[str] | None = None) -> Schema:
    """The settings that a reference names (`settings_names`), with key=value overrides.

    Raises:
        SettingsError: missing or unreadable file, unknown key, bad value; one line each.
    """
    tree, items = _merged(path, overrides or [])
    where = str(path / "settings.yaml" if path.is_dir() else path)
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    # the text of an override is meant where YAML makes another scalar of it: data.source=2024
    scalars = [f for f in faults if f["type"] == "string_type" and isinstance(f["input"], SCALARS)]
    strings = {".".join(map(str, fault["loc"])) for fault in scalars}
    for key, equals, text in (item.partition("=") for item in items):
        if key in strings:
            tree = _put(tree, key.split("."), text.strip(), f"{key}{equals}{text}")
    return _validated(schema, tree, where)


def parsed_as(schema: type[Schema], text: Any, where: str) -> Schema:
    """The settings of a YAML text, such as a checkpoint holds.

    Raises:
        SettingsError: not a text of such settings; one line each.
    """
    try:
        return _validated(schema, parse_yaml(text), where)
    except (ValueError, TypeError, AttributeError):
        raise SettingsError(f"{where}: its settings are not YAML") from None


def _validated(schema: type[Schema], tree: Any, where: str) -> Schema:
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        faults = [f"{where}: {in_one_line(fault, schema)}" for fault in error.errors()[:20]]
        raise SettingsError("\n".join(faults)) from None


def merged(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """The files of a reference with their bases, its values and key=value on top; unchecked.

    Raises:
        SettingsError: missing or unreadable file.
    """
    return _merged(path, overrides or [])[0]


def _merged(path: Path, overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The same, with all key=value items."""
    path, overrides = extended(path, overrides)
    items = [*values_of(path), *overrides]
    tree: dict[str, Any] = {}
    for file in files_of(path):
        tree = _merge(tree, _Reader().read(file, ()))
    for item in items:
        tree = _overridden(tree, item)
    return tree, items


class _Reader:
    """Reads a settings file and its bases, MOST_FILES at most."""

    def __init__(self) -> None:
        self.count = 0

    def read(self, path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
        """above: the files that have it as their base."""
        if path.resolve() in above:
            raise SettingsError(f"{path}: it is its own base")
        self.count += 1
        if self.count > MOST_FILES:
            raise SettingsError(f"{path}: more than {MOST_FILES} files with the bases of all")
        tree = _read(path)
        bases = tree.pop("base", [])
        bases = [bases] if isinstance(bases, str) else bases
        if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
            raise SettingsError(f"{path}: base: expected a file name or a list of them")
        merged: dict[str, Any] = {}
        for base in bases:
            merged = _merge(merged, self.read(path.parent / base, (*above, path.resolve())))
        return _merge(merged, tree)


def _read(path: Path) -> dict[str, Any]:
    """The mapping in a settings file."""
    if not path.exists():
        raise SettingsError(f"{path}: no such settings file")
    try:
        tree = parse_yaml(read_text(path, MOST_BYTES))
    except VkdError as error:
        raise SettingsError(str(error)) from None
    except ValueError as error:
        raise SettingsError(f"{path}: not YAML ({error})") from None
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise SettingsError(f"{path}: expected a mapping of settings")
    return tree


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Key by key; what names another component than the base does replaces it whole."""
    merged = dict(base)
    for key, value in top.items():
        below = _mapping(merged.get(key))
        both = isinstance(value, dict) and value.get("name", below.get("name")) == below.get("name")
        merged[key] = _merge(below, value) if both else value
    return merged


def _mapping(node: Any) -> dict[str, Any]:
    """A component that is given by its name alone as a mapping; nothing for other values."""
    if isinstance(node, str):
        return {"name": node}
    return node if isinstance(node, dict) else {}


def _overridden(tree: dict[str, Any], item: str) -> dict[str, Any]:
    key, equals, text = item.partition("=")
    text = text.strip()
    parts = key.split(".")
    if not equals or not all(parts):
        raise SettingsError(f"{item!r}: expected key.sub=value")
    try:
        value = parse_yaml(text)
    except ValueError:
        raise SettingsError(f"{item!r}: the value is not YAML") from None
    plain = isinstance(value, str) and text[0] not in "'\""
    if plain or (isinstance(value, dict) and text[0] != "{"):
        value = text  # a path may have ": " or " #" in it
    return _put(tree, parts, value, item)


def _put(node: Any, path: list[str], value: Any, item: str) -> Any:
    """The node with a value at the end of a path: keys of mappings, which are made where there is
    none, and places in lists, which have to be there."""
    if not path:
        return value
    part, *rest = path
    if isinstance(node, list):
        if not part.isdecimal() or int(part) >= len(node):
            known = f"0 to {len(node) - 1}" if node else "none: it is empty"
            raise SettingsError(f"{item!r}: {part} is no place in the list; it has {known}")
        place = int(part)
        return [*node[:place], _put(node[place], rest, value, item), *node[place + 1 :]]
    if part.isdecimal():
        raise SettingsError(f"{item!r}: {part} is a place in a list, and no list is set there")
    mapping = _mapping(node)
    return mapping | {part: _put(mapping.get(part), rest, value, item)}


def differences(old: Section, new: Section) -> list[str]:
    """The keys in which two settings differ, with both values."""
    a, b = _flat(old.model_dump()), _flat(new.model_dump())
    return [f"{k}: {a.get(k)!r} -> {b.get(k)!r}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
