"""Help with examples, completion, and output for scripts, of all three programs."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import classification.cli
import classification.detection.cli
import gan_vkd.cli
from gan_vkd.completion import run_names, setting_items, settings_names
from gan_vkd.runtime.settings_names import SHIPPED, description, shipped_names
from gan_vkd.runtime.terminal import choose_form, finish, plain_output, result

PROGRAMS: dict[str, Any] = {
    "vkd": gan_vkd.cli,
    "vkd-classify": classification.cli,
    "vkd-detect": classification.detection.cli,
}
Answer = tuple[int, str, str]


def commands() -> Iterator[tuple[str, str, Any]]:
    """Program, name and command, of every command."""
    for program, module in PROGRAMS.items():
        group: Any = typer.main.get_command(module.app)
        yield from ((program, name, command) for name, command in group.commands.items())


ALL = [pytest.param(*found, id=f"{found[0]} {found[1]}") for found in commands()]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def called(line: str) -> Answer:
        program, *arguments = shlex.split(line)
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            PROGRAMS[program].main()
        return (int(caught.value.code or 0), *capsys.readouterr())

    return called


@pytest.mark.parametrize(("program", "name", "command"), ALL)
def test_help_has_an_example_with_options_that_exist(
    program: str, name: str, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for run in ("runs/mine", "runs/other"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "settings.yaml").touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "G_ema.pth").touch()
    heading, line = command.epilog.removeprefix("\b\n").split("\n")
    assert heading == "Example:"
    called = shlex.split(line)
    assert called[:2] == [program, name]
    command.make_context(name, called[2:])  # raises for what does not parse
    assert command.help


def test_every_shipped_file_is_described() -> None:
    for name in shipped_names():
        assert 4 < len(description(name)) <= 100, name
        assert not description(name).startswith("#")


def test_run_folders_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for run in ("runs/one", "runs/other", "runs/deeper/three"):
        Path(run).mkdir(parents=True)
        Path(run, "settings.yaml").touch()
    Path("runs/deeper/three/settings.yaml").touch()
    assert run_names("ru") == ["runs/"]
    assert run_names("runs/o") == ["runs/one", "runs/other"]
    assert run_names("runs/") == ["runs/deeper/", "runs/one", "runs/other"]
    assert run_names("nowhere/x") == []


def test_settings_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").touch()
    assert settings_names("cifar10_1") == ["cifar10_10pct"]
    assert "mine.yaml" in settings_names("mi")
    assert "x+methods/whitening" in settings_names("x+methods/")
    assert setting_items("+methods/whit") == ["+methods/whitening"]
    assert "train." in setting_items("tr")
    assert "train.batch_size=" in setting_items("train.ba")
    assert "distill.method." in setting_items("distill.m")


@pytest.mark.parametrize("line", ["configs", "configs quickstart"])
def test_json_is_one_object_and_quiet_is_the_result(line: str, call: Callable[..., Any]) -> None:
    code, text, _ = call(f"vkd {line}")
    assert call(f"vkd {line} --quiet") == (code, text, "")
    code, out, err = call(f"vkd {line} --json")
    assert (code, err) == (0, text)
    found = json.loads(out)
    assert found.pop("exit_code") == 0
    (value,) = found.values()
    assert value


@pytest.mark.parametrize("forms", ["--quiet --json", "--json --quiet"])
def test_one_form_of_output_at_a_time(forms: str, call: Callable[..., Any]) -> None:
    code, out, err = call(f"vkd configs {forms}")
    assert code == 2
    assert "give one of them" in out + err


def test_json_of_a_failure_has_the_error(call: Callable[..., Any]) -> None:
    code, out, err = call("vkd train no/where --json")
    found = json.loads(out)
    assert found == {"exit_code": code, "error": "no/where: no such settings file"}
    assert err == "vkd: no/where: no such settings file\n"


def test_text_beside_the_result_is_kept_from_standard_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(form: Any) -> tuple[str, str]:
        with plain_output():
            choose_form(form)
            print("chatter")
            print("fault", file=sys.stderr)
            result("text\x1b", distance=float("nan"), where=Path("a"), many=[(1.5, float("inf"))])
            finish(0)
        return capsys.readouterr()

    assert say("quiet") == ("text\\x1b\n", "fault\n")
    out, err = say("json")
    assert err == "chatter\nfault\ntext\\x1b\n"
    assert json.loads(out) == {
        "exit_code": 0, "distance": None, "where": "a", "many": [[1.5, None]],
    }  # fmt: skip
    monkeypatch.setenv("RANK", "1")
    assert say("json") == ("", err)
    assert say("quiet") == ("", "fault\n")


def test_the_quickstart_trains_the_arms_that_its_files_are_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gan_vkd import quickstart

    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(
        quickstart, "teach", lambda settings, file: asked.append((settings.depth, file)) or 0.5
    )
    quickstart.teach_classifiers()
    assert [str(file) for _, file in asked] == [
        "runs/quickstart/teacher.safetensors", "runs/quickstart/judge.safetensors",
    ]  # fmt: skip
    texts = "".join((SHIPPED / f"{arm}.yaml").read_text() for arm in quickstart.ARMS)
    assert all(str(file) in texts for _, file in asked)
