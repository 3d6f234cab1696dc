"""Makes pages of the Markdown files beside docs/, and finds each page a place in the navigation.

README.md is the first page. Links between files of the repository become links between pages; what
has no page, such as a script, loses its link and keeps its text.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"README.md": "index.md", "benchmarks/README.md": "benchmarks.md"}
LINK = re.compile(r"\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def page_of(source: str) -> str:
    """The page of a file of the repository: docs/a.md is a.md, benchmarks/results/b.md
    results/b.md."""
    if source in NAMES:
        return NAMES[source]
    inside = source.removeprefix("docs/").removeprefix("benchmarks/")
    return inside if inside != source else source.lower()


def on_files(files: Files, config: Any) -> Files:
    elsewhere = [*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md")]
    for path in [*elsewhere, *(ROOT / "benchmarks/results").glob("*.*")]:
        source = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, page_of(source), abs_src_path=str(path)))
    _complete(config["nav"], [file.src_uri for file in files.documentation_pages()])
    return files


def _complete(nav: list[Any], pages: list[str]) -> None:
    """Adds the pages without an entry: results to the results, others to the last section."""
    sections = {name: entries for section in nav for name, entries in section.items()}
    listed = {page for entries in sections.values() for page in entries}
    for page in sorted(set(pages) - listed):
        section = "Results" if page.startswith("results/") else "More"
        sections[section].append(page)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    source = Path(page.file.abs_src_path or "")
    if not source.is_relative_to(ROOT):
        return markdown

    def between_pages(link: re.Match[str]) -> str:
        target = Path(os.path.relpath(source.parent / link[1], ROOT)).as_posix()
        ours = page_of(target)
        if not (ROOT / target).exists() or ours.startswith(".."):
            return link[0]  # of code, or an error that mkdocs reports
        if files.get_file_from_path(ours) is None:
            return "]"
        here = posixpath.dirname(page.file.src_uri)
        return f"]({posixpath.relpath(ours, here)}{link[2] or ''})"

    return LINK.sub(between_pages, markdown)
