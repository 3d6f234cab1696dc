"""YAML is read as PyYAML's safe loader does, or refused in one line and at once."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gan_vkd.runtime.yaml_text import parse_yaml

DOUBLED = "".join(f"x{i}: &x{i} [*x{i - 1}, *x{i - 1}]\n" for i in range(1, 40))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_what_is_dumped_comes_back(tree):
    assert parse_yaml(yaml.safe_dump(tree)) == tree


def test_the_same_values_as_the_safe_loader():
    text = "a: &a {x: 1, y: [2, 3.5, null, true, 12:30]}\nb: {<<: *a, x: 5}\nc: 2026-11-28\n"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x0: &x0 [1]\n" + DOUBLED, "more than 10000 values"),
        ("x0: &x0 {a: 1}\n" + DOUBLED.replace("[", "{<<: [").replace("]", "]}"), "more than 10000"),
        ("&a [*a]", "more than 10000 values"),
        ("a: " + "[" * 100_000, "recursion"),
        ("a: 1\nb: {c: 1, c: 2}", "line 2: the key 'c' is given twice"),
        ("seed: 1\nseed: 1", "line 2: the key 'seed' is given twice"),
        ("a: !!bool foo", "foo"),
        ("a: !!int foo", "foo"),
        ("a: !!float foo", "foo"),
        ("a: !!timestamp foo", "NoneType"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: " + "9" * 5000, "digits"),
        ("{[1]: 2}", "unhashable"),
        ("a: [", "expected"),
        ("a: \0", "special characters"),
        ("--- 1\n--- 2", "single document"),
    ],
    ids=range(16),
)
def test_others_are_refused_in_one_line(text, said):
    with pytest.raises(ValueError, match=said) as caught:
        parse_yaml(text)
    assert len(str(caught.value)) < 300
    assert len(str(caught.value).splitlines()) == 1


def test_many_keys_take_no_time_to_compare():
    with pytest.raises(ValueError, match="more than 10000 values"):
        parse_yaml("\n".join(f"k{i}: 1" for i in range(50_000)))
