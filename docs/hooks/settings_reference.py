"""Pages with every setting, made from the settings' own definitions.

Types and defaults are those of the pydantic models; the meaning is the text below a field, or an
entry in the docstring of the component that takes the option.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from gan_vkd.runtime.components import one_of, settings_of
from gan_vkd.runtime.registry import Registry
from gan_vkd.runtime.section import Section

# file of the page: title, settings and the command that takes them
PAGES = {
    "settings/gan.md": ("GANs", "gan_vkd.game.settings:Settings", "vkd"),
    "settings/recognition.md": (
        "Recognition", "classification.recognition.settings:ClassifierSettings", "vkd-classify",
    ),
    "settings/detection.md": (
        "Detection", "classification.detection.settings:DetectionSettings", "vkd-detect",
    ),
    "settings/teach.md": ("Small classifiers", "gan_vkd.teachers.teach:TeachSettings", "vkd teach"),
}  # fmt: skip
VALUES = ("gan_vkd.runtime.schedule:Schedule", "gan_vkd.game.ema:HalfLife")
WORDS = {bool: "true, false", int: "whole number", float: "number", str: "text", NoneType: "null"}
UNLIMITED = 10**6  # limits from here on only refuse numbers that are beyond any use


@dataclass
class Table:
    """The settings of a section, or the options of a component."""

    heading: str
    about: str
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        head = "| setting | type | default | meaning |\n|---|---|---|---|"
        rows = [f"| `{row[0]}` | {' | '.join(map(_cell, row[1:]))} |" for row in self.rows]
        table = [head, *rows] if rows else []
        about = [self.about, ""] if self.about else []
        return "\n".join([f"## {self.heading}\n", *about, *table, ""])


def pages() -> dict[str, str]:
    """Returns the Markdown of every page by its file."""
    return {file: _page(*page) for file, page in PAGES.items()}


def _page(title: str, place: str, program: str) -> str:
    schema = _loaded(place)
    listed = list(tables(schema))
    if program == "vkd":
        listed += [Table(v.__name__, _cell(_summary(v)), _rows(v)) for v in map(_loaded, VALUES)]
    text = (
        f"# Settings: {title}\n\nEvery setting of `{program}`, as `key.sub=value` or in a YAML "
        "file. Of a setting that chooses a component, the value is its name, or a mapping of its "
        "`name` and options. Numbers may be limited above at values beyond any use, which are not "
        "listed.\n\n"
    )
    return text + "\n".join(map(str, listed))


def _loaded(place: str) -> type[Section]:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def tables(schema: type[Section], key: str = "") -> Iterator[Table]:
    """The table of a section, then those of its components and of the sections in it."""
    prefix = f"{key}." if key else ""
    yield Table(key or "The whole", _cell(_summary(schema)), _rows(schema, prefix))
    for name, info in schema.model_fields.items():
        chosen = one_of(info)
        inner = _section_in(info.annotation)
        if chosen is not None:
            yield from _options(chosen.registry, _path(f"{prefix}{name}", info.annotation))
        elif inner is not None and f"{inner.__module__}:{inner.__name__}" not in VALUES:
            yield from tables(inner, _path(f"{prefix}{name}", info.annotation))


def _options(registry: Registry[Any], key: str) -> Iterator[Table]:
    """The components of a registry, then a table for each one that has options."""
    known = [f"- `{name}`: {_cell(_summary(maker))}" for name, maker in registry.items()]
    yield Table(key, "\n".join(known))
    for name in registry:
        model, maker = settings_of(registry, name), registry[name]
        rows = [
            (f"{key}.{option}", _type(info), _default(info), _of_argument(maker, option))
            for option, info in model.model_fields.items()
            if option != "name"
        ]
        if rows:
            yield Table(f"{key}: {name}", "", rows)
        for option, info in model.model_fields.items():
            chosen = one_of(info)
            if chosen is not None:
                yield from _options(chosen.registry, f"{key}.{option}")


def _rows(schema: type[Section], prefix: str = "") -> list[tuple[str, str, str, str]]:
    meant = meanings(schema)
    return [
        (f"{prefix}{name}", _type(info), _default(info), meant.get(name, ""))
        for name, info in schema.model_fields.items()
    ]


@cache
def meanings(schema: type[Section]) -> dict[str, str]:
    """The texts below the fields of a section and its bases, by name."""
    found: dict[str, str] = {}
    for section in reversed(schema.__mro__):
        if issubclass(section, Section) and section is not Section:
            body = ast.parse(inspect.getsource(section)).body[0].body  # type: ignore[attr-defined]
            for item, below in pairwise(body):
                text = getattr(getattr(below, "value", None), "value", None)
                if isinstance(item, ast.AnnAssign) and isinstance(text, str):
                    found[item.target.id] = " ".join(text.split())  # type: ignore[union-attr]
    return found


def _of_argument(maker: Any, name: str) -> str:
    """The text on an argument in the docstring of a component or of one of its bases."""
    for place in getattr(maker, "__mro__", [maker]):
        _, _, listed = (inspect.getdoc(place) or "").partition("Args:\n")
        entry = rf"^    (?:\w+, )*{name}(?:, \w+)*: (.*(?:\n      .*)*)"
        found = re.search(entry, listed, re.MULTILINE)
        if found and not found[1].startswith("as in"):
            text = " ".join(found[1].split())
            return text[0].upper() + text[1:]
    return ""


def _summary(documented: Any) -> str:
    """The first paragraph of a docstring; the name of what is torch's own."""
    if documented.__module__.startswith("torch"):
        return f"{documented.__module__}.{documented.__name__}"
    return " ".join((documented.__doc__ or "").strip().partition("\n\n")[0].split())


def _type(info: FieldInfo) -> str:
    chosen = one_of(info)
    if chosen is not None:
        several = "list of " if get_origin(info.annotation) is list else ""
        return f"{several}{', '.join(f'`{n}`' for n in chosen.registry)}"
    return _limited(_words(info.annotation), info.metadata)


def _words(annotation: Any) -> str:
    """A type in words: Annotated[int, Field(ge=1)] | None is "whole number from 1, or null"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [m for extra in inner[1:] for m in getattr(extra, "metadata", [extra])]
        return _limited(_words(inner[0]), limits)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in inner)
    if origin in (Union, UnionType):
        return ", or ".join(map(_words, inner))
    if origin is list or inner[1:] == (...,):
        return f"list of {_words(inner[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_words, inner))}]"
    if origin is dict:
        return f"mapping of {_words(inner[0])} to {_words(inner[1])}"
    if annotation in WORDS:
        return WORDS[annotation]
    name = annotation.__name__
    shared = f"{annotation.__module__}:{name}" in VALUES
    return f"[{name}](gan.md#{name.lower()})" if shared else "section"


def _limited(words: str, metadata: list[Any]) -> str:
    """Adds the limits of a number."""
    of = {name: m for m in metadata for name in ("ge", "gt", "le", "lt") if hasattr(m, name)}
    limits = {name: getattr(m, name) for name, m in of.items()}
    texts = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}
    shown = [texts[n].format(f"{x:,}") for n, x in limits.items() if abs(x) < UNLIMITED]
    return " ".join([words, *shown])


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "(must be set)"
    nested = info.default[0] if isinstance(info.default, list) and info.default else info.default
    if isinstance(nested, Section) or info.default_factory is not None:
        return ""
    value = to_jsonable_python(info.default)
    return f"`{json.dumps(value, ensure_ascii=False)}`".replace('"', "")


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (_section_in(inner) for inner in get_args(annotation))
    return next((section for section in found if section is not None), None)


def _path(key: str, annotation: Any) -> str:
    """The key with a place for the index of a list or the name of an entry."""
    return key + {list: ".0", dict: ".NAME"}.get(get_origin(annotation), "")


def _cell(text: str) -> str:
    """Text as a cell of a table."""
    return text.replace("|", "&#124;").replace("<", "&lt;").replace("*", "\\*")
