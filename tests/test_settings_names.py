"""References to settings: own files, shipped files, and combinations with `+`."""

import os
from pathlib import Path

import pytest

from gan_vkd.game.settings import load_settings
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.settings_names import SHIPPED, files_of, shipped_names, short_name, values_of
from gan_vkd.sweep.plan import read_arguments

MINE = "arm: mine\ndata: {source: digits}\ntrain: {iterations: 7}\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Changes to an empty directory with one settings file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(MINE)
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "files"),
    [
        ("quickstart", ["quickstart.yaml"]),
        ("quickstart.yaml", ["quickstart.yaml"]),
        ("recipe/none", ["recipe/none.yaml"]),
        ("cifar10_10pct+methods/whitening", ["cifar10_10pct.yaml", "methods/whitening.yaml"]),
        (
            "cifar10_10pct+sizes/cpu+methods/pkd.yaml",
            ["cifar10_10pct.yaml", "sizes/cpu.yaml", "methods/pkd.yaml"],
        ),
    ],
)
def test_shipped_files_are_found_from_anywhere(reference: str, files: list[str]) -> None:
    assert files_of(Path(reference)) == [SHIPPED / file for file in files]


def test_a_file_with_a_plus_or_an_equals_sign_in_its_name_is_found(elsewhere: Path) -> None:
    for name in ("one+two.yaml", "a=b.yaml"):
        (elsewhere / name).write_text("seed: 5\n")
    assert files_of(Path("one+two")) == [Path("one+two.yaml")]
    assert files_of(Path("mine+a=b")) == [Path("mine.yaml"), Path("a=b.yaml")]
    assert load_settings(Path("mine+a=b")).seed == 5
    assert values_of(Path("a=b")) == []


def test_own_files_take_precedence_over_shipped_ones(elsewhere: Path) -> None:
    assert files_of(Path("mine+methods/spkd")) == [Path("mine.yaml"), SHIPPED / "methods/spkd.yaml"]
    (elsewhere / "quickstart.yaml").write_text(MINE)
    assert files_of(Path("quickstart")) == [Path("quickstart.yaml")]
    assert load_settings(Path("quickstart")).arm == "mine"


def test_parts_are_searched_beside_the_first_file(elsewhere: Path) -> None:
    folder = elsewhere / "deep"
    folder.mkdir()
    (folder / "a.yaml").write_text(MINE)
    (folder / "b.yaml").write_text("seed: 5\n")
    assert load_settings(Path("deep/a+b")).seed == 5
    assert files_of(folder / "a+b") == [folder / "a.yaml", folder / "b.yaml"]


def test_later_files_and_overrides_take_precedence(elsewhere: Path) -> None:
    (elsewhere / "longer.yaml").write_text("train: {iterations: 9, batch_size: 3}\n")
    reference = Path("mine+longer")
    assert load_settings(reference).train.iterations == 9
    assert load_settings(Path("longer+mine")).train.iterations == 7
    assert load_settings(reference, ["train.iterations=11"]).train.iterations == 11
    assert load_settings(reference).train.batch_size == 3


def test_values_of_a_reference_rank_between_files_and_overrides() -> None:
    reference = Path("mine+train.iterations=9+methods/spkd+distill.weight=1+arm=weak")
    settings = load_settings(reference)
    assert settings == load_settings(
        Path("mine+methods/spkd"), ["train.iterations=9", "distill.weight=1", "arm=weak"]
    )
    assert load_settings(reference, ["train.iterations=11"]).train.iterations == 11
    assert load_settings(Path("mine+methods/spkd"), ["+distill.weight=1"]).distill.weight == 1


@pytest.mark.parametrize(
    ("reference", "fault"),
    [
        ("quikstart", "quikstart: no such settings file; did you mean quickstart?"),
        ("quickstart+methods/whitning", "did you mean methods/whitening?"),
        ("nothing+quickstart", "nothing: no such settings file"),
        ("quickstart+", "expected a name before and after each"),
        ("+methods/spkd", "expected a name before and after each"),
        ("train.iterations=3+mine", "train.iterations=3: no such settings file"),
        ("mine+train.iteration=3", "did you mean train.iterations?"),
        ("a" * 5000, "not a path (more than 255 bytes in a name"),
        ("b/" * 3000 + "c", "or 4095 in all)"),
    ],
)
def test_unknown_names_are_reported_with_a_suggestion(reference: str, fault: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(Path(reference))
    assert fault in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_settings_may_be_read_from_a_pipe(elsewhere: Path) -> None:
    """As in `vkd train <(...)`."""
    reading, writing = os.pipe()
    os.write(writing, MINE.encode())
    os.close(writing)
    try:
        assert load_settings(Path(f"/dev/fd/{reading}")).arm == "mine"
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("cifar10_10pct+methods/whitening", "cifar10_10pct_whitening"),
        (str(SHIPPED / "quickstart.yaml"), "quickstart"),
        ("mine.yaml+methods/spkd", "mine_spkd"),
        ("mine+methods/spkd+distill.weight=1", "mine_spkd"),
        ("mine+distill.weight=1+arm=spkd, weak", "mine_spkd_weak"),
    ],
)
def test_runs_are_named_after_their_settings(reference: str, name: str) -> None:
    assert short_name(Path(reference)) == name


def test_additions_on_the_command_line_belong_to_the_previous_file() -> None:
    line = ["a", "+methods/x", "+y=2", "seed=3", "b.yaml", "c+z=w+q", "data.root=/a+b"]
    configs = [Path("a+methods/x+y=2"), Path("b.yaml"), Path("c+z=w+q")]
    assert read_arguments(line, None) == (configs, [0], ["seed=3", "data.root=/a+b"])
    given = load_settings(Path("mine"), ["+methods/spkd", "seed=3"])
    assert given == load_settings(Path("mine+methods/spkd"), ["seed=3"])
    with pytest.raises(SettingsError, match=r"'seed': expected key\.sub=value"):
        load_settings(Path("mine"), ["seed"])


def test_every_shipped_name_is_found() -> None:
    names = shipped_names()
    assert {"quickstart", "cifar10_10pct", "methods/whitening"} <= set(names)
    for name in names:
        assert files_of(Path(name)) == [SHIPPED / f"{name}.yaml"]
