"""Settings as YAML: inherited by `base`, overridden by key=value, checked, each fault in one line.

Of any schema that is made of sections: nothing here knows what is trained.
"""

import difflib
import re
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from gan_vkd.runtime.errors import SettingsError, one_line
from gan_vkd.runtime.settings_names import extended, files_of, values_of

MOST_VALUES = 10_000  # of a settings file


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @property
    def idle(self) -> dict[str, str]:
        """Settings that the others leave without effect, and why."""
        return {}

    def _unless(self, key: str, owner: str, *names: str) -> dict[str, str]:
        """The names are idle unless the setting `key` is `owner`."""
        chosen = getattr(self, key)
        why = f"belongs to {key} = {owner}, but {key} = {chosen}"
        return {} if chosen == owner else dict.fromkeys(names, why)

    @model_validator(mode="after")
    def _nothing_idle_is_set(self) -> Self:
        for name, why in self.idle.items():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} {why}")
        return self


Schema = TypeVar("Schema", bound=Section)


def load_as(schema: type[Schema], path: Path, overrides: list[str] | None = None) -> Schema:
    """The settings that a reference names (`settings_names`), with key=value overrides.

    Raises:
        SettingsError: missing or unreadable file, unknown key, bad value; one line each.
    """
    tree = merged(path, overrides)
    if path.is_dir():
        path = path / "settings.yaml"
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        faults = [f"{path}: {_fault(fault, schema)}" for fault in error.errors()]
        raise SettingsError("\n".join(faults)) from None


def merged(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """The files of a reference with their bases, its values and key=value on top; unchecked.

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


def _fault(error: Any, schema: type[Section]) -> str:
    path = [str(part) for part in error["loc"] if part != "[key]"]
    key = ".".join(path) or "settings"
    listed = error["loc"][-1:] == ("[key]",)  # a mapping whose keys are listed
    if listed or error["type"] == "extra_forbidden":
        known = _names(error["ctx"]["expected"]) if listed else _known_keys(path[:-1], schema)
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {'.'.join([*path[:-1], near[0]])}?" if near else ""
        return f"{key}: unknown key; {hint or 'known here: ' + ', '.join(known)}"
    if error["type"] == "missing":
        return f"{key}: missing"
    value = "" if isinstance(error["input"], dict) else f" = {_cut(repr(error['input']))}"
    return f"{key}{value}: {in_one_clause(error)}"


def in_one_clause(error: Any) -> str:
    """The message of a pydantic fault: ours as it is, pydantic's begun in lower case."""
    ours = str(error["msg"]).partition("Value error, ")[2]
    return ours or error["msg"][0].lower() + error["msg"][1:]


def _cut(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}..."


def _names(expected: str) -> list[str]:
    """Those that pydantic quotes: 'a', 'b' or 'c'."""
    return re.findall("'([^']*)'", expected)


def _known_keys(path: list[str], schema: type[Section]) -> list[str]:
    section = schema
    for part in path:
        if not part.isdigit():  # a place in a list
            section = _section_in(section.model_fields[part].annotation)
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[Section]:
    """The section behind `Section | None`, `list[Section]` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(_section_in(inner) for inner in get_args(annotation) if inner is not type(None))


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise SettingsError(f"{path}: it is its own base")
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
        merged = _merge(merged, _read(path.parent / base, (*seen, path.resolve())))
    return _merge(merged, tree)


def _parse(text: str) -> Any:
    """YAML whose aliases, all written out, are of a sane number of values.

    Raises:
        ValueError, yaml.YAMLError: others.
    """
    tree = yaml.safe_load(text)
    todo, count = [tree], 0
    while todo:
        node, count = todo.pop(), count + 1
        if count > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values, its aliases written out")
        if isinstance(node, dict):
            todo += node.values()
        elif isinstance(node, list):
            todo += node
    return tree


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


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
    mapping = node if isinstance(node, dict) else {}
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
