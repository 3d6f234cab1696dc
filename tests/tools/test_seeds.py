"""Seeds to pictures: the same picture for a seed, whatever is drawn beside it."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from gan_vkd.runtime.errors import SettingsError
from gan_vkd.tools.inputs import inputs_of, load, pictures, shares_of
from gan_vkd.tools.seeds import parse_psis, parse_seeds
from tests.tools.conftest import NAMES, SHARES, Vkd, pixels


def test_seeds_are_numbers_and_ranges() -> None:
    assert parse_seeds("0-3,42") == [0, 1, 2, 3, 42]
    assert parse_seeds("7") == [7]
    assert parse_seeds(" 1, 0-0") == [1, 0]
    assert parse_seeds("4294967295") == [2**32 - 1]


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1-", "1,,2", "4294967296", "1.5", "٣-a"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="such as 0-15,42"):
        parse_seeds(text)


def test_too_many_seeds_are_refused_before_they_are_made() -> None:
    with pytest.raises(SettingsError, match="more than 1000000"):
        parse_seeds("0-4294967295")


def test_psis_are_numbers_from_0_to_2() -> None:
    assert parse_psis("0,0.5,1") == [0, 0.5, 1]
    for text in ("", "a", "-1", "3", "nan"):
        with pytest.raises(SettingsError, match="from 0 to 2"):
            parse_psis(text)


def test_a_class_is_a_name_or_else_a_number() -> None:
    facts = {"classes": 3, "names": NAMES, "shares": SHARES}
    assert shares_of(facts, None) == SHARES
    assert shares_of(facts, "dog") == [0, 1, 0]
    assert shares_of(facts, "1") == [0, 0, 1]  # the name of the third
    assert shares_of(facts, "2") == [0, 0, 1]
    for unknown in ("bird", "3", "-1", ""):
        with pytest.raises(SettingsError, match=r"0 to 2 \(cat, dog, 1\)"):
            shares_of(facts, unknown)
    with pytest.raises(SettingsError, match="has no classes"):
        shares_of({"classes": 0, "names": [], "shares": [1.0]}, "0")


def test_a_seed_has_the_same_latent_for_each_class(stylegan2: Path) -> None:
    generator, facts = load(stylegan2, "cpu")
    z, labels = inputs_of(generator, shares_of(facts, None), [3, 4, 5])
    for label, name in enumerate(NAMES):
        same, only = inputs_of(generator, shares_of(facts, name), [3, 4, 5])
        assert torch.equal(same, z)
        assert only.tolist() == [label] * 3
    assert torch.equal(inputs_of(generator, facts["shares"], [5])[0], z[2:])
    assert torch.equal(inputs_of(generator, facts["shares"], [5])[1], labels[2:])


@pytest.mark.parametrize("name", ["stylegan2", "biggan"])
def test_a_seed_has_the_same_picture_in_any_batch(name: str, runs: dict[str, Path]) -> None:
    generator, facts = load(runs[name], "cpu")
    many = pictures(generator, *inputs_of(generator, facts["shares"], [3, 1, 9, 5]))
    assert many.shape == (4, 3, 32, 32)
    assert many.float().std() > 5
    for index, seed in enumerate([3, 1, 9, 5]):
        alone = pictures(generator, *inputs_of(generator, facts["shares"], [seed]))
        assert torch.equal(alone[0], many[index])


def test_a_seed_has_its_picture_where_runs_are_sampled_with_statistics_of_batches(
    biggan: Path, vkd: Vkd, tmp_path: Path
) -> None:
    settings = shutil.copytree(biggan, tmp_path / "run") / "settings.yaml"
    text = settings.read_text().replace("num_samples: 20", "num_samples: 100")
    settings.write_text(text.replace("batch_norm: standing", "batch_norm: batch"))
    vkd("sample", tmp_path / "run", "--out", tmp_path / "a", "--seeds", "1-3")
    vkd("sample", tmp_path / "run", "--out", tmp_path / "b", "--seeds", "2")
    both = [pixels(tmp_path / name / "seed000002.png") for name in "ab"]
    assert torch.equal(*both)


def test_sample_names_pictures_by_their_seeds(stylegan2: Path, vkd: Vkd, tmp_path: Path) -> None:
    options = ["--out", tmp_path / "x", "--seeds", "0-2,42", "--class", "dog", "--device", "cpu"]
    assert vkd("sample", stylegan2, *options) == f"{tmp_path / 'x'}\n"
    names = sorted(file.name for file in (tmp_path / "x").iterdir())
    assert names == [f"seed{seed:06d}.png" for seed in (0, 1, 2, 42)]
    vkd("sample", stylegan2, "--out", tmp_path / "y", "--count", 1, "--seed", 42, "--class", "dog")
    alone = pixels(tmp_path / "y" / "000000.png")
    assert torch.equal(alone, pixels(tmp_path / "x" / "seed000042.png"))


def test_sample_makes_a_grid_of_seeds(stylegan2: Path, vkd: Vkd, tmp_path: Path) -> None:
    vkd("sample", stylegan2, "--out", tmp_path / "x.png", "--seeds", "0-11")
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (10 * 33 + 1, 2 * 33 + 1)


def test_sample_refuses_unknown_classes_and_seeds(biggan: Path, vkd: Vkd, tmp_path: Path) -> None:
    out = tmp_path / "x"
    assert "not a class" in vkd("sample", biggan, "--out", out, "--class", "bird", code=2)
    assert "--seeds 3-1" in vkd("sample", biggan, "--out", out, "--seeds", "3-1", code=2)
    assert "has no truncation" in vkd("sample", biggan, "--out", out, "--truncation", 0.5, code=2)
    assert not out.exists()
