"""Truncation sweeps and style mixing."""

from pathlib import Path

import pytest
import torch

from gan_vkd.networks import stylegan2 as networks
from gan_vkd.runtime.errors import SettingsError
from gan_vkd.tools.captions import captioned, enlarged
from gan_vkd.tools.inputs import inputs_of, load, pictures
from gan_vkd.tools.mixing import mixed_styles, parse_layers
from gan_vkd.tools.styles import styles_of
from tests.tools.conftest import Vkd, pixels


def stylegan2_of(run: Path) -> networks.Generator:
    generator = load(run, "cpu")[0]
    assert isinstance(generator, networks.Generator)
    return generator


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_captions_leave_the_pictures_as_they_are(channels: int) -> None:
    images = torch.randint(256, (6, channels, 16, 32), dtype=torch.uint8)
    page = captioned(images, ["a", "b", "c"], ["row", "another row"])
    large = enlarged(images, 64).expand(-1, max(channels, 3), -1, -1)
    assert large.shape[2:] == (64, 128)
    top, left = page.shape[1] - (2 * 65 + 1), page.shape[2] - (3 * 129 + 1)
    for index, image in enumerate(large):
        y, x = top + 1 + index // 3 * 65, left + 1 + index % 3 * 129
        assert torch.equal(page[:, y : y + 64, x : x + 128], image)
    assert page[:3, :top].min() < 128  # there is text
    assert page[:3, :, :left].min() < 128


def test_the_truncation_grid_has_the_mean_at_0_and_the_seeds_at_1(
    stylegan2: Path, vkd: Vkd, tmp_path: Path
) -> None:
    out = tmp_path / "x.png"
    options = ["--out", out, "--seeds", "4,2", "--psi", "0,1"]
    assert vkd("truncation", stylegan2, *options) == f"{out}\n"
    cells = pixels(out)[:, -131:, -131:]
    generator, facts = load(stylegan2, "cpu")
    own = enlarged(pictures(generator, *inputs_of(generator, facts["shares"], [4, 2])), 64)
    assert torch.equal(cells[:, 1:65, 66:130], own[0])
    assert torch.equal(cells[:, 66:130, 66:130], own[1])
    assert torch.equal(cells[:, 1:65, 1:65], cells[:, 66:130, 1:65])


def test_the_truncation_is_measured(stylegan2: Path, vkd: Vkd, tmp_path: Path) -> None:
    options = ["--psi", "0,1", "--measure", "data.num_images=40"]
    out = vkd("truncation", stylegan2, "--out", tmp_path / "x.png", "--seeds", "0", *options)
    table = (tmp_path / "x.md").read_text()
    assert table in out
    header, _, none, all_ = table.splitlines()
    for column in ("psi", "FD(classifier)", "precision", "recall"):
        assert column in header
    assert none.split("|")[1].strip() == "0"
    assert none.split("|")[2:] != all_.split("|")[2:]


def test_networks_without_truncation_or_w_say_so(biggan: Path, vkd: Vkd, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    assert "has no truncation" in vkd("truncation", biggan, "--out", out, code=2)
    message = vkd("mix", biggan, "--out", out, code=2)
    assert f"style mixing needs a latent w, and the network of {biggan} has none" in message
    assert not out.exists()


def test_pictures_need_a_name_of_a_format(stylegan2: Path, vkd: Vkd, tmp_path: Path) -> None:
    options = ["--out", tmp_path / "x.pdf", "--rows", 0, "--columns", 1]
    message = vkd("mix", stylegan2, *options, code=2)
    assert "expected a name that ends in one of .png" in message


def test_layers_are_named_by_resolution_or_numbered() -> None:
    assert parse_layers("coarse", 8) == [0, 1, 2, 3]
    assert parse_layers("middle", 8) == [4, 5, 6, 7]
    assert parse_layers("fine", 12) == [8, 9, 10, 11]
    assert parse_layers("0,6-7", 8) == [0, 6, 7]
    for text in ("fine", "8", "2-9"):
        with pytest.raises(SettingsError, match="the network has the layers 0 to 7"):
            parse_layers(text, 8)
    with pytest.raises(SettingsError, match="--layers broad"):
        parse_layers("broad", 8)


def test_mixing_takes_the_chosen_layers_from_the_column(stylegan2: Path) -> None:
    generator = stylegan2_of(stylegan2)
    rows, columns = (
        styles_of(generator, *inputs_of(generator, [0.5, 0.5, 0.0], seeds))
        for seeds in ([0, 1], [5, 6, 7])
    )
    mixed = mixed_styles(rows, columns, [2, 3])
    assert mixed.shape == (2, 3, 8, 8)
    for i in range(2):
        for j in range(3):
            assert torch.equal(mixed[i, j, [2, 3]], columns[j, [2, 3]])
            assert torch.equal(mixed[i, j, [0, 1, 4, 5, 6, 7]], rows[i, [0, 1, 4, 5, 6, 7]])
    everything = mixed_styles(rows, columns, list(range(8)))
    assert torch.equal(everything[0], everything[1])


def test_the_mixing_grid_has_the_sources_at_its_borders(
    stylegan2: Path, vkd: Vkd, tmp_path: Path
) -> None:
    out = tmp_path / "x.png"
    vkd("mix", stylegan2, "--out", out, "--rows", "1-2", "--columns", "3-5", "--layers", "4-7")
    cells = pixels(out)[:, -196:, -261:]
    generator, facts = load(stylegan2, "cpu")
    own = enlarged(pictures(generator, *inputs_of(generator, facts["shares"], [1, 3])), 64)
    assert torch.equal(cells[:, 66:130, 1:65], own[0])
    assert torch.equal(cells[:, 1:65, 66:130], own[1])
    assert (cells[:, 1:65, 1:65] == 255).all()
