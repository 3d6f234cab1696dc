"""Settings that choose a component of a registry: discriminated unions built from constructors.

    projection: Annotated[Choice, OneOf(PROJECTIONS)] = choice("orthogonal")

accepts `orthogonal`, or `{name: orthogonal}` with further keys as options, in a settings file. The
options are the keyword-only arguments of the component's constructor, with their annotations and
defaults; an argument annotated with a registry is itself such a choice. A component with a class
method `check` can refuse combinations of options by a ValueError.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    SerializeAsAny,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema
from pydantic_core.core_schema import tagged_union_schema

from gan_vkd.runtime.registry import Chosen, Registry
from gan_vkd.runtime.section import Section

ENTRY_POINTS = "gan_vkd.components"


@cache
def load_plugins() -> None:
    """Imports the modules that installed packages list under the entry point group ENTRY_POINTS.

    These modules register their components when they are imported.
    """
    for plugin in entry_points(group=ENTRY_POINTS):
        plugin.load()


class Choice(Section):
    """The name of a component, with its options."""

    registry: ClassVar[Registry[Any]]
    name: str

    @model_validator(mode="before")
    @classmethod
    def _name_to_mapping(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def chosen(self) -> dict[str, Any]:
        """The name and options as a dictionary, for `Registry.make`."""
        return self.model_dump()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.registry, self.chosen)


def _restored(registry: Registry[Any], chosen: dict[str, Any]) -> Choice:
    """Rebuilds a pickled choice, for example in another process."""
    return settings_of(registry, chosen["name"]).model_validate(chosen)


def choice(chosen: Chosen) -> Any:
    """Returns the default of a setting: a component by its name, or by name and options."""
    return Field(default=chosen, validate_default=True)


class OneOf:
    """Annotation of a setting whose value is a component of the registry.

    default: name of the component if a mapping has no `name`, so that an option can be set alone.
    """

    def __init__(self, registry: Registry[Any], default: str | None = None) -> None:
        self.registry, self.default = registry, default

    def name_of(self, value: Any) -> str | None:
        """Returns the component's name in a value of the setting, or None if there is none."""
        if isinstance(value, Mapping):
            value = value.get("name", self.default)
        elif isinstance(value, Choice):
            value = value.name
        return value if isinstance(value, str) else None

    def models(self) -> dict[str, type[Choice]]:
        """Returns the settings model of every component, by name."""
        load_plugins()
        return {name: settings_of(self.registry, name) for name in self.registry}

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        models = {name: handler.generate_schema(model) for name, model in self.models().items()}
        return tagged_union_schema(models, discriminator=self.name_of)

    def takes(self, option: str) -> bool:
        """Returns whether any component of the registry has this option."""
        return any(option in model.model_fields for model in self.models().values())


def one_of(field: FieldInfo) -> OneOf | None:
    """Returns the `OneOf` of a `Choice`, `Choice | None`, `list[Choice]`, ..., or None."""

    def inside(annotations: Iterable[Any]) -> Iterator[OneOf]:
        for annotation in annotations:
            if isinstance(annotation, OneOf):
                yield annotation
            yield from inside(get_args(annotation))

    return next(inside([*field.metadata, field.annotation]), None)


@cache
def settings_of(registry: Registry[Any], name: str) -> type[Choice]:
    """Builds the settings model of a component from its constructor's signature."""
    maker = registry[name]
    constructor = maker.__init__ if inspect.isclass(maker) else maker
    hints = get_type_hints(constructor, include_extras=True)
    fields: dict[str, Any] = {"name": (Literal[name], name)}
    for parameter in inspect.signature(constructor).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            fields[parameter.name] = _field(hints[parameter.name], parameter.default)
    validators: dict[str, Any] = {}
    if hasattr(maker, "check"):
        validators["_check"] = model_validator(mode="after")(_validator_of(maker.check))
    title = f"{registry.kind} {name}"
    model = create_model(title, __base__=Choice, __validators__=validators, **fields)
    model.registry = registry
    model.model_rebuild()  # pydantic before 2.14 does not serialize a nested model that is deferred
    return model


def _field(annotation: Any, default: Any) -> Any:
    """Returns type and default of a model's field.

    An annotation with a registry becomes a choice of its components, or for `str` of their names.
    """
    for extra in get_args(annotation)[1:]:
        if isinstance(extra, Registry):
            if get_args(annotation)[0] is str:
                return Literal[tuple(extra)], default
            return SerializeAsAny[Annotated[Choice, OneOf(extra, default)]], choice(default)
    if get_origin(annotation) in (Union, UnionType):
        annotation = Annotated[annotation, WrapValidator(_single_error(annotation))]
    return annotation, ... if default is inspect.Parameter.empty else default


def _single_error(annotation: Any) -> Any:
    """Returns a validator that reports one error for a union; pydantic reports one per member."""
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


def _validator_of(check: Any) -> Any:
    def validate(self: Choice) -> Choice:
        check(**{k: v for k, v in self.model_dump().items() if k != "name"})
        return self

    return validate
