"""Settings that choose components: accepted forms, and messages for invalid ones."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml

from gan_vkd.runtime.components import Choice, OneOf, choice, one_of, settings_of
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.registry import Chosen, Registry
from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings_file import load_as

INNER: Registry[Any] = Registry("inner part")
OUTER: Registry[Any] = Registry("outer part")
NAMES: Registry[float] = Registry("shape")
NAMES.register("round")(lambda: 1.0)
NAMES.register("square")(lambda: 2.0)


@INNER.register("plain")
class Plain:
    def __init__(self, width: int) -> None:
        self.width = width


@INNER.register("scaled")
class Scaled:
    def __init__(self, width: int, *, by: float | Literal["auto"] | None = 2.0) -> None:
        self.width, self.by = width, by

    @classmethod
    def check(cls, *, by: float | str | None) -> None:
        if isinstance(by, float) and by < 0:
            raise ValueError(f"by must be positive, got {by}")


@OUTER.register("holder")
class Holder:
    def __init__(
        self,
        width: int,
        *,
        inner: Annotated[Chosen, INNER] = "scaled",
        shape: Annotated[str, NAMES] = "round",
    ) -> None:
        self.inner, self.shape = INNER.make(inner, width), NAMES[shape]()


@OUTER.register("needy")
def needy(width: int, *, size: int) -> tuple[int, int]:
    return width, size


class Part(Section):
    outer: Annotated[Choice, OneOf(OUTER, "holder")] = choice("holder")
    several: tuple[Annotated[Choice, OneOf(INNER)], ...] = ()


class Whole(Section):
    part: Part = Part.model_construct()
    text: str = "x"


Load = Callable[..., Whole]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def loaded(tree: Any, *overrides: str) -> Whole:
        file = tmp_path / "a.yaml"
        file.write_text(yaml.safe_dump(tree))
        return load_as(Whole, file, list(overrides))

    return loaded


def test_a_name_is_the_component_with_default_options(load: Load) -> None:
    full = {"name": "holder", "inner": {"name": "scaled", "by": 2.0}, "shape": "round"}
    for tree in ("holder", {"name": "holder"}, {"inner": "scaled"}, {"inner": {"name": "scaled"}}):
        assert load({"part": {"outer": tree}}).part.outer.chosen == full


def test_the_chosen_component_is_made(load: Load) -> None:
    chosen = load({"part": {}}, "part.outer.inner.by=5", "part.outer.shape=square").part.outer
    made = OUTER.make(chosen.chosen, 7)
    assert (made.inner.width, made.inner.by, made.shape) == (7, 5.0, 2.0)
    assert OUTER.make({"name": "needy", "size": 3}, 7) == (7, 3)
    assert isinstance(OUTER.make({"name": "holder", "inner": "plain"}, 1).inner, Plain)


def test_settings_are_read_back_from_their_dump(load: Load) -> None:
    tree = {"part": {"outer": {"inner": "plain"}, "several": ["plain", {"name": "scaled"}]}}
    settings = load(tree)
    again = load(settings.model_dump(mode="json"))
    assert again == settings
    assert [part.name for part in again.part.several] == ["plain", "scaled"]


def test_settings_can_be_pickled(load: Load) -> None:
    settings = load({"part": {"outer": {"inner": {"by": 3}}, "several": ["plain"]}})
    again = pickle.loads(pickle.dumps(settings))
    assert again == settings
    assert type(again.part.outer) is type(settings.part.outer)
    with pytest.raises(ValueError, match="a registry of kind 'inner part' already"):
        Registry("inner part")


def test_another_name_discards_the_options_of_the_base(load: Load) -> None:
    below = {"part": {"outer": {"name": "holder", "inner": "plain"}}}
    for override in ("part.outer=needy", "part.outer={name: needy, size: 1}"):
        with_size = [override, "part.outer.size=4"]
        assert load(below, *with_size).part.outer.chosen == {"name": "needy", "size": 4}
    inner = load({"part": {"outer": {"inner": {"name": "scaled", "by": 9}}}})
    assert inner.part.outer.chosen["inner"]["by"] == 9


def test_bases_are_merged_by_the_same_rule(load: Load, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("part: {outer: {inner: {name: scaled, by: 3}}}")
    kept = load({"base": "base.yaml", "part": {"outer": {"shape": "square"}}}).part.outer.chosen
    assert (kept["inner"]["by"], kept["shape"]) == (3, "square")
    same = load({"base": "base.yaml", "part": {"outer": {"inner": {"name": "scaled"}}}})
    assert same.part.outer.chosen["inner"]["by"] == 3
    other = load({"base": "base.yaml", "part": {"outer": {"inner": {"name": "plain"}}}})
    assert other.part.outer.chosen["inner"] == {"name": "plain"}


FAULTS = {
    "part.outer=holdr": "part.outer = 'holdr': no outer part of that name; did you mean holder?",
    "part.outer=zzz": "no outer part of that name; known: holder, needy",
    "part.outer=[1]": "part.outer: expected the name of an outer part, or a mapping with its name",
    "part.outer=needy": "part.outer.size: missing",
    "part.outer.innr=plain": "part.outer.innr: unknown key; did you mean part.outer.inner?",
    "part.outer.inner.byy=1": "part.outer.inner.byy: unknown key; did you mean part.outer.inner.by",
    "part.outer.inner.by=x": "part.outer.inner.by = 'x': expected a number, auto or null",
    "part.outer.inner.by=-1": "part.outer.inner: by must be positive, got -1.0",
    "part.outer.shape=oval": "part.outer.shape = 'oval': input should be 'round' or 'square'",
    "part.several=[{name: plain, x: 1}]": "part.several.0.x: unknown key; known here: name",
    "part.several=[plain, odd]": "part.several.1 = 'odd': no inner part of that name",
    "text.more=1": "text: input should be a valid string",
}


@pytest.mark.parametrize(("override", "message"), FAULTS.items())
def test_faults_are_one_line_with_the_key(override: str, message: str, load: Load) -> None:
    with pytest.raises(SettingsError) as caught:
        load({"part": {}}, override)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="inner part 'plain' is registered already"):
        INNER.register("plain")(Plain)
    with pytest.raises(ValueError, match="plane: no inner part of that name; did you mean plain"):
        INNER["plane"]


def test_a_choice_reports_which_options_it_takes() -> None:
    field = one_of(Part.model_fields["outer"])
    assert field is not None
    assert field.takes("size")
    assert not field.takes("sise")
    assert one_of(Whole.model_fields["text"]) is None
    assert one_of(Part.model_fields["several"]).registry is INNER  # type: ignore[union-attr]
    assert list(settings_of(OUTER, "needy").model_fields) == ["name", "size"]
