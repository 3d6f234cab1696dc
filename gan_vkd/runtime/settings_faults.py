"""Errors of settings in one line each: the key, the value, what was expected."""

import difflib
import re
from collections.abc import Sequence
from typing import Any, get_args

from gan_vkd.runtime.components import OneOf, one_of
from gan_vkd.runtime.section import Section


def in_one_line(error: Any, schema: type[Section]) -> str:
    """Formats one of the errors of a ValidationError of the schema."""
    path, section, chosen = _follow(error["loc"], schema)
    key = ".".join(path) or "settings"
    listed = error["loc"][-1:] == ("[key]",)  # a mapping whose keys are listed
    if listed or error["type"] == "extra_forbidden":
        known = _names(error["ctx"]["expected"]) if listed else list(section.model_fields)
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {'.'.join([*path[:-1], near[0]])}?" if near else ""
        return f"{key}: unknown key; {hint or 'known here: ' + ', '.join(known)}"
    if error["type"] == "missing":
        return f"{key}: missing"
    if chosen is not None and error["type"] == "union_tag_invalid":
        name = error["ctx"]["tag"]
        return f"{key} = {_cut(repr(name))}: {chosen.registry.unknown(name)}"
    if chosen is not None and error["type"] == "union_tag_not_found":
        kind = chosen.registry.kind
        article = "an" if kind[0] in "aeiou" else "a"
        return f"{key}: expected the name of {article} {kind}, or a mapping with its name"
    value = "" if isinstance(error["input"], dict) else f" = {_cut(repr(error['input']))}"
    return f"{key}{value}: {in_one_clause(error)}"


def in_one_clause(error: Any) -> str:
    """Returns an error's message: of our own validators unchanged, of pydantic in lower case."""
    ours = str(error["msg"]).partition("Value error, ")[2]
    return ours or error["msg"][0].lower() + error["msg"][1:]


def _follow(
    loc: Sequence[str | int], schema: type[Section]
) -> tuple[list[str], type[Section], OneOf | None]:
    """Returns the keys of an error's location without component names, the section that holds the
    last key, and the `OneOf` of that key, if any."""
    path: list[str] = []
    section: type[Section] | None = schema
    holder, chosen = schema, None
    for part in loc:
        if part == "[key]":
            continue
        if chosen is not None and isinstance(part, str):
            section, chosen = chosen.models()[part], None
            continue
        path.append(str(part))
        if isinstance(part, int) or section is None:  # an index of a list, or a key of a mapping
            continue
        holder = section
        field = section.model_fields.get(part)
        chosen = None if field is None else one_of(field)
        section = None if field is None or chosen else _section_in(field.annotation)
    return path, holder, chosen


def _section_in(annotation: Any) -> type[Section] | None:
    """Returns the section in an annotation such as `Section | None` or `list[Section]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (_section_in(inner) for inner in get_args(annotation))
    return next((section for section in found if section is not None), None)


def _cut(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}..."


def _names(expected: str) -> list[str]:
    """Returns the names in a list as pydantic writes it: 'a', 'b' or 'c'."""
    return re.findall("'([^']*)'", expected)
