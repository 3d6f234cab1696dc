"""Settings that choose a component of a registry: a discriminated union, made from constructors.

    projection: Annotated[Choice, OneOf(PROJECTIONS)] = choice("orthogonal")

takes `orthogonal` or `{name: orthogonal}`, with options where the component has any, in a settings
file. These are the keyword-only arguments of its constructor, with their annotations and defaults;
an argument annotated by a registry is itself such a choice. A component with a class method `check`
refuses options that do not go together (ValueError).
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import (
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    SerializeAsAny,
    Tag,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from gan_vkd.runtime.registry import Chosen, Registry
from gan_vkd.runtime.section import Section

ENTRY_POINTS = "gan_vkd.components"


@cache
def load_plugins() -> None:
    """Imports what installed packages add: the modules of their entry points ENTRY_POINTS.

    They register their components when they are imported.
    """
    for plugin in entry_points(group=ENTRY_POINTS):
        plugin.load()


class Choice(Section):
    """The name of a component, with its options."""

    registry: ClassVar[Registry[Any]]
    name: str

    @model_validator(mode="before")
    @classmethod
    def _a_name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def chosen(self) -> dict[str, Any]:
        """For `Registry.make`."""
        return self.model_dump()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.registry, self.chosen)


def _restored(registry: Registry[Any], chosen: dict[str, Any]) -> Choice:
    """A choice that was sent from another process."""
    return settings_of(registry, chosen["name"]).model_validate(chosen)


def choice(chosen: Chosen) -> Any:
    """The default of a setting: a component by its name, or by name and options."""
    return Field(default=chosen, validate_default=True)


class OneOf:
    """Annotates a setting that is a component of the registry.

    default: the name that is meant where a mapping gives none; so one option can be set alone.
    """

    def __init__(self, registry: Registry[Any], default: str | None = None) -> None:
        self.registry, self.default = registry, default

    def name_of(self, value: Any) -> str | None:
        if isinstance(value, Mapping):
            value = value.get("name", self.default)
        elif isinstance(value, Choice):
            value = value.name
        return value if isinstance(value, str) else None

    def models(self) -> dict[str, type[Choice]]:
        """The settings of every component by its name."""
        load_plugins()
        return {name: settings_of(self.registry, name) for name in self.registry}

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        tagged = tuple(Annotated[model, Tag(name)] for name, model in self.models().items())
        union: Any = Union.__getitem__(tagged)
        return handler.generate_schema(Annotated[union, Discriminator(self.name_of)])

    def takes(self, option: str) -> bool:
        """Whether any of the components has such an option."""
        return any(option in model.model_fields for model in self.models().values())


def one_of(field: FieldInfo) -> OneOf | None:
    """The choice behind a setting that is a `Choice`, `Choice | None`, `list[Choice]`, ..."""

    def inside(annotations: Iterable[Any]) -> Iterator[OneOf]:
        for annotation in annotations:
            if isinstance(annotation, OneOf):
                yield annotation
            yield from inside(get_args(annotation))

    return next(inside([*field.metadata, field.annotation]), None)


@cache
def settings_of(registry: Registry[Any], name: str) -> type[Choice]:
    """The schema of a component's options, from its constructor."""
    maker = registry[name]
    constructor = maker.__init__ if inspect.isclass(maker) else maker
    hints = get_type_hints(constructor, include_extras=True)
    fields: dict[str, Any] = {"name": (Literal[name], name)}
    for parameter in inspect.signature(constructor).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            fields[parameter.name] = _field(hints[parameter.name], parameter.default)
    validators: dict[str, Any] = {}
    if hasattr(maker, "check"):
        validators["_check"] = model_validator(mode="after")(_calls(maker.check))
    title = f"{registry.kind} {name}"
    model = create_model(title, __base__=Choice, __validators__=validators, **fields)
    model.registry = registry
    return model


def _field(annotation: Any, default: Any) -> Any:
    """Of a model; an annotation by a registry becomes a choice of it, or of its names alone."""
    for extra in get_args(annotation)[1:]:
        if isinstance(extra, Registry):
            if get_args(annotation)[0] is str:
                return Literal[tuple(extra)], default
            return SerializeAsAny[Annotated[Choice, OneOf(extra, default)]], choice(default)
    if get_origin(annotation) in (Union, UnionType):
        annotation = Annotated[annotation, WrapValidator(_in_one_fault(annotation))]
    return annotation, ... if default is inspect.Parameter.empty else default


def _in_one_fault(annotation: Any) -> Any:
    """One fault for a union, where pydantic gives one for each of its members."""
    names = {bool: "true, false", int: "a whole number", float: "a number", type(None): "null"}
    members = [
        names.get(member) or ", ".join(map(str, get_args(member)))  # of a Literal
        for member in get_args(annotation)
    ]

    def validate(value: Any, handler: Any) -> Any:
        try:
            if isinstance(value, bool) and bool not in get_args(annotation):
                raise ValueError
            return handler(value)
        except ValueError:  # ValidationError is one
            raise ValueError(f"expected {', '.join(members[:-1])} or {members[-1]}") from None

    return validate


def _calls(check: Any) -> Any:
    def validate(self: Choice) -> Choice:
        check(**{k: v for k, v in self.model_dump().items() if k != "name"})
        return self

    return validate
