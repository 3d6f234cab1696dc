"""Renders formulas ($...$ and $$...$$) as MathML, which browsers show without a script."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    return FORMULA.sub(
        lambda found: convert(
            html.unescape(found[3]).strip(), display="block" if found[1] == "div" else "inline"
        ),
        content,
    )
