"""The three programs: their commands and the functions that these import by name."""

from dataclasses import fields

import pytest

import classification.cli
import classification.detection.cli
import gan_vkd.cli
from gan_vkd.front import Front

PROGRAMS = {
    "vkd": gan_vkd.cli,
    "vkd-classify": classification.cli,
    "vkd-detect": classification.detection.cli,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_function_named_by_a_program_exists(name: str) -> None:
    front = PROGRAMS[name].front
    named = [f.name for f in fields(Front) if ":" in str(getattr(front, f.name)).split(" ")[0]]
    assert {"load", "train", "tables", "export"} <= set(named)
    for what in named:
        assert callable(front.function(what))


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_has_the_common_commands(name: str) -> None:
    commands = [
        command.name or command.callback.__name__
        for command in PROGRAMS[name].app.registered_commands
    ]
    assert {"train", "sweep", "compare", "evaluate", "export"} <= set(commands)
    assert len(commands) == len(set(commands))
