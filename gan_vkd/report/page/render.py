"""A page's HTML, from page.html beside this file."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gan_vkd import __version__
from gan_vkd.report.arms import Tables
from gan_vkd.report.page.charts import Section, curves, hues, spreads
from gan_vkd.report.page.pictures import Source, Strip
from gan_vkd.report.page.subject import Subject
from gan_vkd.report.page.views import View, differing
from gan_vkd.report.tables import Row, complete
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.terminal import plain

FOLDER = Path(__file__).parent
IMAGES_BESIDE = "'self' file:"


@dataclass
class Page:
    """What page.html shows.

    now: the state of a run in training; refresh: seconds until the page is loaded again,
    0: never. own_files: images may be files beside the page.
    """

    title: str
    arms: dict[str, int]
    runs: list[Row]
    differing: list[Row]
    settings: dict[str, str]
    tables: Sequence[Tables[Any]]
    sections: list[Section]
    strips: list[Strip]
    warnings: list[str]
    missing: list[str]
    now: str = ""
    refresh: int = 0
    own_files: bool = False


def page(
    subject: Subject[Any],
    views: Sequence[View[Any]],
    baseline: str,
    source: Source,
) -> Page:
    """Puts together what there is of the runs; source: how their images get on the page."""
    strips = subject.strips(views, source)
    missing, tables = list[str](), list[Tables[Any]]()
    measured = [v.measured for v in views if v.measured is not None]
    try:
        tables = subject.tables(measured, baseline)
    except VkdError as error:
        missing.append(f"no tables: {error}")
    warnings = [line for v in views for line in v.warnings()]
    warnings += [
        f"{v.name}: {warning}"
        for v in views
        if v.measured is not None
        for warning in subject.warnings(v.measured)
    ]
    arms = hues(views)
    return Page(
        title=", ".join(arms),
        arms=arms,
        runs=complete([v.row() for v in views]),
        differing=differing(views) if len(views) > 1 else [],
        settings={v.name: v.settings.dump() for v in views if v.settings is not None},
        tables=tables,
        sections=spreads(subject, tables, arms) + curves(views),
        strips=[strip for strip in strips if any(strip.frames.values())],
        warnings=warnings,
        missing=[f"{v.name}: {line}" for v in views for line in v.missing] + missing,
    )


def render(shown: Page) -> str:
    """The page as HTML: text is escaped, and the browser is told to load nothing from elsewhere."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printed,
    )
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        page=shown,
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        f"img-src {IMAGES_BESIDE if shown.own_files else 'data:'}",
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        version=__version__,
    )


def _printed(value: Any) -> Any:
    """Text with control characters as escapes, since it may be a stranger's."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return plain(value)
