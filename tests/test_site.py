"""The documentation site builds without warnings, and loads nothing from elsewhere."""

import logging
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.documents import DOCUMENTS, ROOT, name_of

NEEDED = ("mkdocs", "material", "mkdocstrings_handlers", "latex2mathml")
MISSING = [name for name in NEEDED if find_spec(name) is None]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if MISSING:
        pytest.skip(f"pip install '.[docs]': {', '.join(MISSING)} not installed")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_every_document_is_in_the_navigation(site: Path) -> None:
    from docs.hooks.repository_pages import page_of

    navigation = (site / "index.html").read_text()
    for document in DOCUMENTS:
        page = page_of(name_of(document)).replace(".md", ".html")
        assert (site / page).is_file(), page
        assert page == "index.html" or f'href="{page}"' in navigation, page


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loaded = r'<(?:script|img|iframe|source)[^>]*\ssrc="(?:https?:)?//|@import|url\(.?http'
    linked = r'<link[^>]*rel="(?:stylesheet|preconnect|preload)"[^>]*href="(?:https?:)?//'
    for page in site.rglob("*.html"):
        assert not re.search(f"{loaded}|{linked}", page.read_text()), page


def test_formulas_and_api_are_rendered(site: Path) -> None:
    method, api = (site / "method.html").read_text(), (site / "api.html").read_text()
    assert method.count("<math") > 10
    assert "arithmatex" not in method
    assert 'id="gan_vkd.game.trainer.Trainer"' in api
    assert "retract" in api
