"""Settings as YAML: inherited by `base`, overridden by key=value, validated, one line per error.

Works for any schema that is a `Section`, whatever is trained.
"""

from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.files import read_text, user_path
from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings_faults import in_one_line
from gan_vkd.runtime.settings_names import extended, files_of, values_of
from gan_vkd.runtime.yaml_text import parse_yaml

MOST_BYTES = 2**20  # of a settings file
MOST_FILES = 100  # with all bases
SCALARS = (bool, int, float, date)

Schema = TypeVar("Schema", bound=Section)


def load_as(schema: type[Schema], path: Path, overrides: list[str] | None = None) -> Schema:
    """Reads the settings of a reference (see `settings_names`), with key=value overrides.

    Raises:
        SettingsError: missing or unreadable file, unknown key, invalid value; one line per error.
    """
    tree, items = _merged(path, overrides or [])
    where = str(path / "settings.yaml" if path.is_dir() else path)
    return validated(schema, tree, where, items)


def parsed_as(schema: type[Schema], text: Any, where: str) -> Schema:
    """The settings of a YAML text, such as a checkpoint holds.

    Raises:
        SettingsError: not a text of such settings; one line each.
    """
    try:
        return validated(schema, parse_yaml(text), where)
    except (ValueError, TypeError, AttributeError):
        raise SettingsError(f"{where}: its settings are not YAML") from None


def validated(schema: type[Schema], tree: Any, where: str, items: Iterable[str] = ()) -> Schema:
    """The settings of a tree that the key=value items have been merged into.

    Raises:
        SettingsError: unknown key or invalid value; one line each.
    """
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    # the text of an item is meant where YAML makes another scalar of it: data.source=2024
    scalars = [f for f in faults if f["type"] == "string_type" and isinstance(f["input"], SCALARS)]
    strings = {".".join(map(str, fault["loc"])) for fault in scalars}
    for key, equals, text in (item.partition("=") for item in items):
        if key in strings:
            tree = _put(tree, key.split("."), text.strip(), f"{key}{equals}{text}")
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        lines = [f"{where}: {in_one_line(fault, schema)}" for fault in error.errors()[:20]]
        raise SettingsError("\n".join(lines)) from None


def merged(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Merges a reference's files with their bases, its values and the overrides; not validated.

    Raises:
        SettingsError: missing or unreadable file.
    """
    return _merged(path, overrides or [])[0]


def merged_items(items: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Merges +NAME and key=value items alone, with no settings below them; not validated.

    Returns:
        The tree, and the key=value items.

    Raises:
        SettingsError: missing or unreadable file, or an item that is neither.
    """
    names = [item[1:] for item in items if item.startswith("+") and "=" not in item]
    values = [item.removeprefix("+") for item in items if "=" in item or item[:1] != "+"]
    tree = merged(Path("+".join(names))) if names else {}
    for item in values:
        tree = _overridden(tree, item)
    return tree, values


def _merged(path: Path, overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The same, with all key=value items."""
    path, overrides = extended(path, overrides)
    items = [*values_of(path), *overrides]
    tree: dict[str, Any] = {}
    for file in files_of(path):
        tree = merged_trees(tree, _Reader().read(file, ()))
    for item in items:
        tree = _overridden(tree, item)
    return tree, items


class _Reader:
    """Reads a settings file with its bases, at most MOST_FILES files."""

    def __init__(self) -> None:
        self.count = 0

    def read(self, path: Path, parents: tuple[Path, ...]) -> dict[str, Any]:
        """parents: the files of which this one is a base."""
        if path.resolve() in parents:
            raise SettingsError(f"{path}: its bases include the file itself")
        self.count += 1
        if self.count > MOST_FILES:
            raise SettingsError(f"{path}: more than {MOST_FILES} files, all bases included")
        try:
            tree = _read(path)
        except SettingsError as error:
            base_of = f" (a base of {parents[-1]})" if parents else ""
            raise SettingsError(f"{error}{base_of}") from None
        bases = tree.pop("base", [])
        bases = [bases] if isinstance(bases, str) else bases
        if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
            raise SettingsError(f"{path}: base: expected a file name or a list of them")
        merged: dict[str, Any] = {}
        for base in bases:
            try:
                file = path.parent / user_path(base)
            except SettingsError as error:
                raise SettingsError(f"{path}: base: {error}") from None
            merged = merged_trees(merged, self.read(file, (*parents, path.resolve())))
        return merged_trees(merged, tree)


def _read(path: Path) -> dict[str, Any]:
    """Returns the mapping in a settings file."""
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


def merged_trees(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Merges key by key; a component of another name than the base's replaces it entirely."""
    merged = dict(base)
    for key, value in top.items():
        below = _mapping(merged.get(key))
        both = isinstance(value, dict) and value.get("name", below.get("name")) == below.get("name")
        merged[key] = merged_trees(below, value) if both else value
    return merged


def _mapping(node: Any) -> dict[str, Any]:
    """Returns a mapping as it is, a component's name as a mapping, {} for other values.

    auto is a value, and no name of a component.
    """
    if isinstance(node, str) and node != "auto":
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
    plain = text.startswith("#") or (isinstance(value, str) and text[0] not in "'\"")
    if plain or (isinstance(value, dict) and text[0] != "{"):
        value = text  # a path may have ": " or " #" in it
    return _put(tree, parts, value, item)


def _put(node: Any, path: list[str], value: Any, item: str) -> Any:
    """Returns the node with the value set at a path of keys of mappings, which are created where
    missing, and indices of lists, which must exist."""
    if not path:
        return value
    part, *rest = path
    if isinstance(node, list):
        if not part.isdecimal() or int(part) >= len(node):
            valid = f"expected 0 to {len(node) - 1}" if node else "it is empty"
            raise SettingsError(f"{item!r}: {part} is not an index of the list; {valid}")
        index = int(part)
        return [*node[:index], _put(node[index], rest, value, item), *node[index + 1 :]]
    if part.isdecimal():
        raise SettingsError(f"{item!r}: {part} is an index of a list, but no list is set there")
    mapping = _mapping(node)
    return mapping | {part: _put(mapping.get(part), rest, value, item)}


def differences(old: Section, new: Section) -> list[str]:
    """Returns the keys in which two settings differ, each with both values."""
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
