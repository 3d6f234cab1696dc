"""Links of the documents resolve; their commands have options and settings that exist."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

import classification.cli
import classification.detection.cli
import gan_vkd.cli
from gan_vkd.runtime.settings_file import load_as, merged
from gan_vkd.runtime.settings_names import SHIPPED, extended
from gan_vkd.sweep.plan import read_arguments
from gan_vkd.teachers.teach import TeachSettings
from tests.documents import DOCUMENTS, ROOT, anchors, blocks, commands, links, name_of, words

PROGRAMS = {
    "vkd": gan_vkd.cli,
    "vkd-classify": classification.cli,
    "vkd-detect": classification.detection.cli,
}
# Settings of what a command calls its run or its own settings file
SETTINGS = {
    "vkd": ("folder+networks/stylegan2", "data.source=PICTURES"),
    "vkd-classify": ("vit_folder", "data.source=TRAIN", "data.heldout=VAL"),
    "vkd-detect": ("coco_vidt_nano", "data.root=COCO"),
}
COMMANDS = {
    f"{name_of(document)}: {command}": command
    for document in DOCUMENTS
    for command in commands(document)
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_resolve(document: Path) -> None:
    for link in links(document):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert target.resolve().is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_options_and_settings_of_commands_exist(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program, *arguments = words(command)
    for argument in arguments:
        _make(argument, program)
    group: Any = typer.main.get_command(PROGRAMS[program].app)
    context = group.make_context(program, list(arguments))
    name, subcommand, rest = group.resolve_command(context, arguments)
    given = subcommand.make_context(name, list(rest), parent=context).params
    for config, items in _settings(name, given):
        load = PROGRAMS[program].front.function("load")
        pictures = config.is_dir() and not (config / "settings.yaml").exists()
        base, *values = SETTINGS[program]
        if name == "teach":
            load_as(TeachSettings, config, items)
        elif pictures or config.is_file():
            load(*extended(Path(base), [*values, *items]))
        else:
            load(*extended(config, items))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_scripts_of_commands_exist(document: Path) -> None:
    called = r"^(?:bash|python) ((?:scripts|benchmarks)/\S+)"
    for script in re.findall(called, "\n".join(blocks(document, "bash")), re.MULTILINE):
        assert (ROOT / script).is_file(), script


def _make(argument: str, program: str) -> None:
    """Makes what a command would find: a file, a folder of pictures, or a run."""
    shipped = (SHIPPED / f"{argument.partition('+')[0]}.yaml").exists()
    if argument.startswith(("-", "+", "/")) or "=" in argument or shipped or argument[:2] == "..":
        return
    path = Path(argument)
    if path.suffix and not argument.startswith("./"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return
    path.mkdir(parents=True, exist_ok=True)
    if not argument.startswith("./"):
        base, *values = SETTINGS[program]
        (path / "settings.yaml").write_text(yaml.safe_dump(merged(Path(base), values)))


def _settings(name: str, given: dict[str, Any]) -> list[tuple[Path, list[str]]]:
    """The references of settings with their overrides in the arguments of a command."""
    items = list(given.get("overrides") or given.get("measure") or [])
    if name == "sweep":
        configs, _, items = read_arguments(given["arguments"], given["seeds"])
        return [(config, items) for config in configs]
    target = given.get("config") or given.get("run")
    return [(Path(target), items)] if target and (items or name in ("train", "import")) else []
