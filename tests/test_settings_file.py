"""Settings files of strangers are read within limits; overrides of texts need no quotes."""

import os
from pathlib import Path

import pytest

from gan_vkd.game.settings import load_settings
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.schedule import Schedule

MINIMAL = "arm: none\ndata: {source: digits}\n"


def refusal(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 500
    return message


def test_networks_combine_and_the_later_one_takes_precedence() -> None:
    """A schedule replaces the value auto, which is not the name of a component."""
    reference = Path("folder+networks/stylegan2+networks/r3gan")
    settings, alone = (
        load_settings(path, ["data.source=digits"])
        for path in (reference, Path("folder+networks/r3gan"))
    )
    assert settings.model == alone.model
    assert settings.train == alone.train
    assert settings.regularize.r1 == alone.regularize.r1
    assert isinstance(settings.regularize.r1, Schedule)


@pytest.mark.parametrize("text", ["2024", "no", "12:30", "2026-11-28", "1e3", "true"])
def test_an_override_of_a_text_needs_no_quotes(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(MINIMAL)
    settings = load_settings(tmp_path / "run.yaml", [f"data.source={text}", f"arm={text}"])
    assert settings.data.source == settings.arm == text


def test_another_type_is_still_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(MINIMAL)
    for item in ("data.source=[1]", "data.source={a: 1}", "arm=null"):
        with pytest.raises(SettingsError, match=item.partition("=")[0]):
            load_settings(tmp_path / "run.yaml", [item])


def test_bases_that_name_each_other_many_times_are_refused(tmp_path: Path) -> None:
    for number in range(14):
        following = ", ".join([f"{number + 1}.yaml"] * 4)
        (tmp_path / f"{number}.yaml").write_text(f"base: [{following}]\n")
    (tmp_path / "14.yaml").write_text(MINIMAL)
    assert "more than 100 files" in refusal(tmp_path / "0.yaml")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "large", "missing", "NUL"])
def test_a_base_is_a_regular_file_of_limited_size(kind: str, tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    name = "base.yaml"
    if kind == "pipe":
        os.mkfifo(base)
    elif kind == "device":
        name = "/dev/zero"
    elif kind == "folder":
        base.mkdir()
    elif kind == "large":
        base.write_text("#" * (2**20 + 1))
    elif kind == "NUL":
        name = "a\\0b"
    (tmp_path / "run.yaml").write_text(f'base: "{name}"\n{MINIMAL}')
    assert str(tmp_path / "run.yaml") in refusal(tmp_path / "run.yaml")


def test_a_pipe_as_settings_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.yaml")
    assert "not a regular file" in refusal(tmp_path / "run.yaml")


def test_a_key_given_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"{MINIMAL}seed: 1\nseed: 2\n")
    assert "line 4: the key 'seed' is given twice" in refusal(tmp_path / "run.yaml")
