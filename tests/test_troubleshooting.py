"""The messages that docs/troubleshooting.md explains are in the code."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.documents import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text()
CELLS = re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE)
MESSAGES = [message for cell in CELLS for message in re.findall(r"`([^`]+)`", cell)]


def texts() -> Iterator[str]:
    """Every string in the code, with \\0 in place of what is formatted into it."""
    for package in ("gan_vkd", "classification"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(getattr(part, "value", "\0") if isinstance(part, ast.Constant)
                                  else "\0" for part in node.values)  # fmt: skip
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


TEXTS = list(texts())


@pytest.mark.parametrize("message", MESSAGES)
def test_explained_messages_exist(message: str) -> None:
    parts = [part for part in message.split("...") if part.strip(" :;.")]
    assert any(all(part.strip() in text for part in parts) for text in TEXTS)
