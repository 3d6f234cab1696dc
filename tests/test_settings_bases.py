"""Settings files and their bases: inheritance, and files that cannot be read."""

import pytest

from gan_vkd.game.settings import load_settings
from tests.test_config import MINIMAL, fault, write


def test_base_is_overridden_key_by_key(tmp_path):
    write(tmp_path, "base.yaml", MINIMAL + "train: {iterations: 7, batch_size: 8}\naugment: []")
    child = write(tmp_path, text="base: base.yaml\narm: other\ntrain: {batch_size: 9}\n")
    settings = load_settings(child)
    assert settings.arm == "other"
    assert (settings.train.iterations, settings.train.batch_size) == (7, 9)
    assert settings.augment == []


def test_later_bases_take_precedence_and_bases_may_have_bases(tmp_path):
    write(tmp_path, "root.yaml", MINIMAL + "seed: 1\ntrain: {iterations: 1, d_steps: 1}")
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", "left.yaml", "base: ../root.yaml\nseed: 2\ntrain: {d_steps: 2}")
    write(tmp_path, "right.yaml", "seed: 3")
    settings = load_settings(write(tmp_path, text="base: [sub/left.yaml, right.yaml]"))
    assert (settings.seed, settings.train.iterations, settings.train.d_steps) == (3, 1, 2)


def test_one_base_may_be_reached_twice(tmp_path):
    write(tmp_path, "root.yaml")
    for side in ("left", "right"):
        write(tmp_path, f"{side}.yaml", "base: root.yaml")
    assert load_settings(write(tmp_path, text="base: [left.yaml, right.yaml]")).arm == "none"


def test_lists_are_replaced_and_sections_may_be_set_to_null(tmp_path):
    distill = "distill: {teacher: {name: discriminator}}\n"
    write(tmp_path, "base.yaml", MINIMAL + distill + "augment: [color, cutout]\n")
    child = write(tmp_path, text="base: base.yaml\ndistill: null\naugment: [translation]\n")
    settings = load_settings(child)
    assert settings.distill is None
    assert [part.name for part in settings.augment] == ["translation"]


@pytest.mark.parametrize("ring", [1, 2, 3])
def test_circular_base_is_refused(ring, tmp_path):
    for i in range(ring):
        write(tmp_path, f"{i}.yaml", f"base: {(i + 1) % ring}.yaml\n" + MINIMAL)
    assert "its bases include the file itself" in fault(tmp_path / "0.yaml")


@pytest.mark.parametrize(
    "text",
    ["", "- a\n- b", "just words", "1: 2", "a: [", "a: b: c", "\tx: 1", "base: 3", "base: [1]",
     "x: !!python/object:os.system {}", "[" * 5000, "arm: x\ndata: {source: x, 1: 2}",
     "data: {source: x}\narm: &a [*a]"],
)  # fmt: skip
def test_a_file_without_a_settings_mapping_is_refused(text, tmp_path):
    assert "run.yaml" in fault(write(tmp_path, text=text))


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00\x01")
    assert "not UTF-8 text" in fault(tmp_path / "run.yaml")


def test_a_missing_file_is_reported_with_a_suggestion(tmp_path):
    write(tmp_path, "quickstart.yaml")
    message = fault(tmp_path / "quikstart.yaml")
    assert "no such settings file" in message
    assert f"did you mean {tmp_path / 'quickstart.yaml'}?" in message


def test_missing_bases_and_folders_are_refused(tmp_path):
    assert "no such settings file" in fault(write(tmp_path, text="base: nowhere.yaml"))
    assert "no such settings file" in fault(tmp_path)
    assert "no such settings file" in fault(tmp_path / "no" / "where.yaml")
    assert "cannot be read" in fault(write(tmp_path, text="base: ."))
