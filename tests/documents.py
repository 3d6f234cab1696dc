"""The documents of the repository: their files, links, code blocks and commands."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    file
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "examples/**/*.md")
    for file in ROOT.glob(pattern)
)
PROGRAMS = ("vkd", "vkd-classify", "vkd-detect")


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def blocks(document: Path, language: str) -> list[str]:
    """The fenced code blocks of a language, also those inside of lists."""
    fenced = rf"^( *)```{language}[^\n]*\n(.*?)^\1```"
    return [text for _, text in re.findall(fenced, document.read_text(), re.DOTALL | re.MULTILINE)]


def without_code(document: Path) -> str:
    text = re.sub(r"^( *)```.*?^\1```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def links(document: Path) -> list[str]:
    """The targets of links and images that are inside of the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code(document))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(document: Path) -> set[str]:
    """The anchors of the headings, as GitHub and the site name them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading).strip().lower() for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def commands(document: Path) -> list[str]:
    """The command lines of this project's programs in blocks of bash, except sketches (...) and
    options of the program itself."""
    lines = "\n".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()
    ours = [line.strip() for line in lines if re.match(rf"\s*({'|'.join(PROGRAMS)}) [^-]", line)]
    return [line for line in ours if "..." not in line.partition(" #")[0] and "$" not in line]


def words(command: str) -> list[str]:
    """Splits a command as bash does, with its quotes, braces and comments, up to a pipe."""
    command = re.split(r" (?:\d?>|\|) ", command)[0]
    script = f"list() {{ printf '%s\\0' \"$@\"; }}\nlist {command}"
    done = subprocess.run(["bash", "-f", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]
