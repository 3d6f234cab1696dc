"""Registries of components by name, one per kind, which other packages can extend.

    @PROJECTIONS.register("mine")
    class Mine(Projection):
        def __init__(self, student_width: int, teacher_width: int, *, scale: float = 1.0): ...

The keyword-only arguments of a component are its settings: their annotations define which values
are valid, their defaults are the settings' defaults. `projection: mine` in a settings file, or
`projection: {name: mine, scale: 2}`, then chooses it.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

Made = TypeVar("Made")
Maker = TypeVar("Maker", bound=Callable[..., Any])
Chosen = str | Mapping[str, Any]  # a name, or a name with options


_REGISTRIES: dict[str, "Registry[Any]"] = {}


def _of_kind(kind: str) -> "Registry[Any]":
    return _REGISTRIES[kind]


class Registry(Mapping[str, Callable[..., Made]], Generic[Made]):
    """Classes or functions of one kind, by name.

    Args:
        kind: noun for the components in messages; unique among registries.

    Raises:
        ValueError: there is a registry of this kind already.
    """

    def __init__(self, kind: str) -> None:
        if kind in _REGISTRIES:
            raise ValueError(f"there is a registry of kind {kind!r} already")
        _REGISTRIES[kind] = self
        self.kind = kind
        self._makers: dict[str, Callable[..., Made]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_kind, (self.kind,)  # unpickled as the registry of that process

    def register(self, name: str) -> Callable[[Maker], Maker]:
        """Adds the decorated class or function.

        Raises:
            ValueError: the name is taken.
        """

        def add(maker: Maker) -> Maker:
            if name in self._makers:
                raise ValueError(f"{self.kind} {name!r} is registered already")
            self._makers[name] = maker
            return maker

        return add

    def make(self, chosen: Chosen, *args: Any) -> Made:
        """Makes the chosen component with its options and the positional arguments `args`.

        Raises:
            ValueError: unknown name, or arguments that the component refuses.
        """
        options = {"name": chosen} if isinstance(chosen, str) else dict(chosen)
        return self[options.pop("name")](*args, **options)

    def unknown(self, name: str) -> str:
        """Returns the message for an unknown name, with the closest name or all known ones."""
        near = difflib.get_close_matches(name, self, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(self)}"
        return f"no {self.kind} of that name; {hint}"

    def __getitem__(self, name: str) -> Callable[..., Made]:
        if name not in self._makers:
            raise ValueError(f"{name}: {self.unknown(name)}")
        return self._makers[name]

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other
