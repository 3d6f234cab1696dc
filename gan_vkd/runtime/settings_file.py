"""Settings as YAML: inherited by `base`, overridden by key=value, validated, one line per error.

Works for any schema that is a `Section`, whatever is trained.
"""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from gan_vkd.runtime.errors import SettingsError, one_line
from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings_faults import in_one_line
from gan_vkd.runtime.settings_names import extended, files_of, values_of

MOST_VALUES = 10_000  # of a settings file


Schema = TypeVar("Schema", bound=Section)


def load_as(schema: type[Schema], path: Path, overrides: list[str] | None = None) -> Schema:
    """Reads the settings of a reference (see `settings_names`), with key=value overrides.

    Raises:
        SettingsError: missing or unreadable file, unknown key, invalid value; one line per error.
    """
    tree = merged(path, overrides)
    if path.is_dir():
        path = path / "settings.yaml"
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        faults = [f"{path}: {in_one_line(fault, schema)}" for fault in error.errors()]
        raise SettingsError("\n".join(faults)) from None


def merged(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Merges a reference's files with their bases, its values and the overrides; not validated.

    Raises:
        SettingsError: missing or unreadable file.
    """
    tree: dict[str, Any] = {}
    path, overrides = extended(path, overrides or [])
    for file in files_of(path):
        tree = _merge(tree, _read(file, ()))
    for item in [*values_of(path), *overrides]:
        tree = _overridden(tree, item)
    return tree


def _read(path: Path, parents: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in parents:
        raise SettingsError(f"{path}: its bases include the file itself")
    try:
        tree = _parse(path.read_text())
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such settings file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read ({error})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not YAML ({one_line(error)})") from None
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise SettingsError(f"{path}: expected a mapping of settings")
    bases = tree.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise SettingsError(f"{path}: base: expected a file name or a list of them")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = _merge(merged, _read(path.parent / base, (*parents, path.resolve())))
    return _merge(merged, tree)


def _parse(text: str) -> Any:
    """Parses YAML with a limited number of values after its aliases are expanded.

    Raises:
        ValueError, yaml.YAMLError: more than MOST_VALUES values, or not YAML.
    """
    tree = yaml.safe_load(text)
    todo, count = [tree], 0
    while todo:
        node, count = todo.pop(), count + 1
        if count > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values after its aliases are expanded")
        if isinstance(node, dict):
            todo += node.values()
        elif isinstance(node, list):
            todo += node
    return tree


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Merges key by key; a component of another name than the base's replaces it entirely."""
    merged = dict(base)
    for key, value in top.items():
        below = _mapping(merged.get(key))
        both = isinstance(value, dict) and value.get("name", below.get("name")) == below.get("name")
        merged[key] = _merge(below, value) if both else value
    return merged


def _mapping(node: Any) -> dict[str, Any]:
    """Returns a mapping as it is, a component's name as a mapping, {} for other values."""
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
        value = _parse(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise SettingsError(f"{item!r}: the value is not YAML") from None
    plain = isinstance(value, str) and text[0] not in "'\""
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
