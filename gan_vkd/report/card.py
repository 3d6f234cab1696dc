"""Model cards for the Hub: README.md with the facts of a run."""

import re
from typing import Any

import yaml

from gan_vkd.report.tables import in_line, markdown

TEXT = """---
library_name: gan_vkd
pipeline_tag: {pipeline}
# license: state the licence of these weights here, for example: cc-by-4.0
---

# {title}

{table}

```python
{usage}
```

Trained by `{command}` with

```yaml
{settings}
```
"""


def card(
    *,
    title: str,
    pipeline: str,
    facts: dict[str, Any],
    usage: str,
    command: str,
    settings: dict[str, Any],
) -> str:
    """The text of a model card.

    Args:
        title: of the page.
        pipeline: the Hub's name of the task.
        facts: shown as a table; those that are "" are left out.
        usage: Python code that loads the network.
        command: by which it was trained.
        settings: of the run; paths of this machine are shortened to their last name.
    """
    shown = {name: str(value) for name, value in facts.items() if value != ""}
    rows = [{"": _escaped(name), "value": _escaped(value)} for name, value in shown.items()]
    text = yaml.safe_dump(_without_folders(settings), sort_keys=False, allow_unicode=True)
    return TEXT.format(
        title=_escaped(title),
        pipeline=pipeline,
        table=markdown(rows),
        usage=usage,
        command=command,
        settings=text.strip().replace("```", "'''"),
    )


def shortened(path: str) -> str:
    """The last name of a path, since folders of a machine are not for publication."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _without_folders(tree: Any) -> Any:
    """The tree with all text shortened, except names, such as timm/NAME."""
    if isinstance(tree, dict):
        return {k: v if k == "name" else _without_folders(v) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_without_folders(value) for value in tree]
    return shortened(tree) if isinstance(tree, str) else tree


def _escaped(text: str) -> str:
    """Text of a run on one line of Markdown, which may hold HTML."""
    line = in_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\*_`[]#!" else c for c in line)
