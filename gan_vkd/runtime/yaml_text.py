"""YAML that may be a stranger's: of limited size when its aliases are written out, no key twice."""

from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from gan_vkd.runtime.errors import one_line

MOST_VALUES = 10_000  # keys, values and list items of a text, its aliases written out


def parse_yaml(text: str) -> Any:
    """Returns the value of a YAML document; no tag makes anything but plain Python values.

    Raises:
        ValueError: not YAML, more than MOST_VALUES values, or a key that is given twice.
    """
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        if node is None:
            return None
        _check(node)
        return SafeConstructor().construct_document(node)
    except (yaml.YAMLError, RecursionError, LookupError, AttributeError, TypeError) as error:
        # PyYAML's constructors raise those of the third to fifth kind for tags such as !!bool foo
        raise ValueError(one_line(error)) from None


def _check(document: yaml.Node) -> None:
    """Counts the values before anything is made of them: merge keys copy what they name."""
    todo, count, known = [document], 0, set[int]()
    while todo:
        node, count = todo.pop(), count + 1
        if count > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values, its aliases written out")
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
        elif isinstance(node, yaml.MappingNode):
            if id(node) not in known:
                known.add(id(node))
                _refuse_repeated_keys(node)
            todo += [part for pair in node.value for part in pair]


def _refuse_repeated_keys(mapping: yaml.MappingNode) -> None:
    given = set()
    for key, _ in mapping.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in given:
                line = key.start_mark.line + 1
                raise ValueError(f"line {line}: the key {key.value!r} is given twice")
            given.add((key.tag, key.value))
