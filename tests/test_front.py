"""The three programs: their commands and the functions that these import by name."""

from dataclasses import fields
from pathlib import Path

import pytest

import classification.cli
import classification.detection.cli
import gan_vkd.cli
from gan_vkd.front import Front, require_data
from gan_vkd.runtime.errors import VkdError

PROGRAMS = {
    "vkd": gan_vkd.cli,
    "vkd-classify": classification.cli,
    "vkd-detect": classification.detection.cli,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_function_named_by_a_program_exists(name: str) -> None:
    front = PROGRAMS[name].front
    named = [f.name for f in fields(Front) if ":" in str(getattr(front, f.name)).split(" ")[0]]
    assert {"load", "train", "tables", "report", "export"} <= set(named)
    for what in named:
        assert callable(front.function(what))


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_has_the_common_commands(name: str) -> None:
    commands = [
        command.name or command.callback.__name__
        for command in PROGRAMS[name].app.registered_commands
    ]
    assert {"train", "sweep", "compare", "report", "evaluate", "export"} <= set(commands)
    assert len(commands) == len(set(commands))


@pytest.mark.parametrize(
    ("data", "overrides", "given"),
    [
        ("{source: digits}", [], False),
        ("{source: here/a.zip, heldout: test}", [], False),
        ("{source: '~'}", [], False),
        ("{source: no}", [], False),  # not a path
        ("{source: cifar10, root: no/where}", [], False),  # downloaded to it
        ("{source: digits, root: no/where, download: false}", [], False),  # not used
        ("{source: 'no/{00..99}.tar', kind: shards}", [], False),
        ("{root: here, heldout: a/split}", [], False),  # of COCO, in its root
        ("{source: no/where}", ["data.heldout=here"], True),  # not needed
        ("5", [], False),
        ("{source: digits}", ["augment.0.ratio=1"], False),  # of another arm
    ],
)
def test_data_that_may_be_there_are_not_refused(data, overrides, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.zip").write_text("")
    (tmp_path / "x.yaml").write_text(f"data: {data}\n")
    require_data(Path("x.yaml"), overrides, given)


@pytest.mark.parametrize(
    ("data", "overrides", "given"),
    [
        ("{source: no/where}", [], False),
        ("{source: digits, heldout: no/where}", [], False),
        ("{source: cifar10, root: no/where, download: false}", [], False),
        ("{root: no/where, heldout: test}", [], False),
        ("{source: digits}", ["data.source=no/where"], False),
        ("{source: digits}", ["data.heldout=no/where"], True),
    ],
)
def test_data_that_are_not_there_are_refused(data, overrides, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(f"data: {data}\n")
    with pytest.raises(VkdError, match=r"data\.\w+ = no/where: no such folder or file"):
        require_data(Path("x.yaml"), overrides, given)
