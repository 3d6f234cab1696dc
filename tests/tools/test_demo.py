"""The demo without its page: pictures from values, the course of a projection, files, the port."""

import copy
import os
import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gan_vkd.demo import files, server
from gan_vkd.demo.files import Folders, saved
from gan_vkd.demo.pictures import MOST, Picture, between, compared, drawn
from gan_vkd.demo.projection import projected
from gan_vkd.demo.runs import Shown, open_run
from gan_vkd.report.pictures import save_png
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.tools.inputs import inputs_of, load, pictures
from tests.tools.conftest import NAMES, SHARES, Vkd, pixels


@pytest.fixture(scope="module")
def shown(runs: dict[str, Path]) -> dict[str, Shown]:
    return {name: open_run(path, "cpu") for name, path in runs.items()}


def images(made: list[Picture]) -> Tensor:
    return torch.stack([picture.image for picture in made])


def test_a_run_says_what_it_can(shown: dict[str, Shown]) -> None:
    styled, other = shown["stylegan2"], shown["biggan"]
    assert (styled.truncates, other.truncates) == (True, False)
    assert (styled.spaces, other.spaces) == (["w", "w+", "z"], ["z"])
    assert styled.classes == NAMES
    assert styled.about == f"{styled.path}: 32 x 32 pixels, colour, 3 classes, iteration 5"
    assert replace(styled, facts={**styled.facts, "names": []}).classes == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["stylegan2", "biggan"])
def test_samples_are_those_of_vkd_sample(
    name: str, shown: dict[str, Shown], vkd: Vkd, tmp_path: Path
) -> None:
    made = drawn(shown[name], "0-1,42", "dog", 1.0)
    vkd("sample", shown[name].path, "--out", tmp_path, "--seeds", "0-1,42", "--class", "dog")
    assert [picture.name for picture in made] == sorted(os.listdir(tmp_path))
    for picture in made:
        assert torch.equal(picture.image, pixels(tmp_path / picture.name))
    assert [picture.caption for picture in made] == [f"seed {n}, dog" for n in (0, 1, 42)]


def test_classes_without_names_have_their_numbers(shown: dict[str, Shown]) -> None:
    run = shown["biggan"]
    run = replace(run, facts={**run.facts, "names": []})
    assert drawn(run, "3", "2", 1.0)[0].caption == "seed 3, class 2"


def test_truncation_holds_for_one_drawing(shown: dict[str, Shown]) -> None:
    full, mean, again = (images(drawn(shown["stylegan2"], "0-3", None, psi)) for psi in (1, 0, 1))
    assert torch.equal(full, again)
    assert torch.equal(mean, mean[:1].expand_as(mean))
    assert not torch.equal(full, mean)
    other = shown["biggan"]
    assert torch.equal(images(drawn(other, "0", None, 0)), images(drawn(other, "0", None, 1)))


@pytest.mark.parametrize("name", ["stylegan2", "biggan"])
def test_an_interpolation_goes_from_one_seed_to_the_other_and_back(
    name: str, shown: dict[str, Shown]
) -> None:
    strip, frames = between(shown[name], 3, 8, 9, "cat", 1.0)
    first, last = images(drawn(shown[name], "3,8", "cat", 1.0)).float()
    assert strip.shape == (3, 2 * 33 + 1, 8 * 33 + 1)
    assert len(frames) == 18
    assert float((frames[0] - first).abs().max()) <= 1  # batches of other sizes are rounded
    assert float((frames[9] - last).abs().max()) <= 1
    assert torch.equal(strip[:, 34:66, 34:66], frames[9])
    assert not torch.equal(frames[5], frames[0])


def test_two_runs_are_compared_at_the_same_z_and_class(shown: dict[str, Shown]) -> None:
    run, other = shown["stylegan2"], shown["biggan"]
    left, right = compared(run, other, "0-3", None, 0.7)
    z, labels = inputs_of(run.generator, SHARES, range(4))
    assert torch.equal(images(left), images(drawn(run, "0-3", None, 0.7)))
    assert torch.equal(images(right), pictures(other.generator, z, labels))
    assert [picture.caption for picture in left] == [picture.caption for picture in right]


def test_other_classes_are_drawn_by_their_own_run(shown: dict[str, Shown]) -> None:
    run, other = shown["stylegan2"], shown["biggan"]
    other = replace(other, facts={**other.facts, "names": ["a", "b", "c"], "shares": [0, 0, 1]})
    left, right = compared(run, other, "0-3", None, 1.0)
    assert {picture.caption.split(", ")[1] for picture in left} <= set(NAMES)
    assert {picture.caption.split(", ")[1] for picture in right} == {"c"}
    with pytest.raises(SettingsError, match="not a class of the run"):
        compared(run, other, "0-3", "dog", 1.0)


def test_latents_of_other_widths_are_not_compared(shown: dict[str, Shown]) -> None:
    run = shown["stylegan2"]
    wider = replace(run, generator=copy.deepcopy(run.generator))
    wider.generator.z_dim = 16
    with pytest.raises(
        SettingsError, match=r"no z is common to both: it has 8 values in .* and 16"
    ):
        compared(run, wider, "0", None, 1.0)


def test_not_too_many_pictures_at_a_time(shown: dict[str, Shown]) -> None:
    with pytest.raises(SettingsError, match=f"at most {MOST}"):
        drawn(shown["biggan"], f"0-{MOST}", None, 1.0)


def test_a_projection_comes_nearer_and_leaves_its_files(
    shown: dict[str, Shown], tmp_path: Path
) -> None:
    run = shown["stylegan2"]
    (target,) = drawn(run, "7", None, 1.0)
    save_png(target.image, tmp_path / "mine.png")
    made = list(projected(run, tmp_path / "mine.png", "w", None, 40, 0, tmp_path / "found"))
    assert len(made) == 40 + 1
    apart = [float((now.image.float() - target.image).square().mean()) for now in made]
    assert apart[-1] < apart[0] / 2
    assert all(torch.equal(now.target, target.image) for now in made)
    assert made[0].line.startswith("step 1 of 40: perceptual distance ")
    assert made[-1].line.startswith("perceptual distance ")
    names = ["curve.png", "projected.png", "projected.safetensors", "projection.png"]
    assert [file.name for file in made[-1].files] == names
    assert torch.equal(pixels(made[-1].files[1]), made[-1].image)


def test_a_projection_stops_where_no_more_is_asked_for(
    shown: dict[str, Shown], tmp_path: Path
) -> None:
    run = shown["stylegan2"]
    save_png(drawn(run, "7", None, 1.0)[0].image, tmp_path / "mine.png")
    course = projected(run, tmp_path / "mine.png", None, None, 200, 0, tmp_path / "x")
    assert next(course).name == "step00002.png"
    course.close()
    assert not (tmp_path / "x").exists()


def test_uploaded_files_are_decoded_within_the_limits(biggan: Path, tmp_path: Path) -> None:
    """Errors name the file as its owner knows it."""
    settings = shutil.copytree(biggan, tmp_path / "run") / "settings.yaml"
    settings.write_text(settings.read_text().replace("max_megapixels: 256", "max_megapixels: 1"))
    run = open_run(tmp_path / "run", "cpu")
    Image.fromarray(np.zeros((1001, 1000), np.uint8)).save(tmp_path / "large.png")
    (tmp_path / "text.png").write_text("x")
    for name, why in (("large.png", "1000x1001 pixels, more than"), ("text.png", "not an image")):
        with pytest.raises(VkdError, match=f"^{name}: {why}"):
            next(projected(run, tmp_path / name, None, None, 10, 0, tmp_path / "x"))


def test_a_projection_leaves_the_shown_generator_as_it_is(
    shown: dict[str, Shown], tmp_path: Path
) -> None:
    run = shown["stylegan2"]
    before = drawn(run, "7", None, 1.0)[0].image
    save_png(before, tmp_path / "mine.png")
    list(projected(run, tmp_path / "mine.png", "w+", None, 3, 0, tmp_path / "found"))
    assert torch.equal(drawn(run, "7", None, 1.0)[0].image, before)
    assert load(run.path, "cpu")[1] == run.facts


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_files_have_the_pixels_and_transparency_of_the_pictures(
    channels: int, tmp_path: Path
) -> None:
    image = torch.randint(0, 256, (channels, 8, 12), dtype=torch.uint8)
    (made,) = saved([Picture(image, "seed000003.png", "seed 3")], tmp_path)
    assert made == (str(tmp_path / "seed000003.png"), "seed 3")
    assert torch.equal(pixels(tmp_path / "seed000003.png"), image)


def test_the_oldest_folders_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "KEPT", 3)
    folders = Folders(tmp_path)
    made = [folders.new() for _ in range(5)]
    assert [folder.exists() for folder in made] == [False, False, True, True, True]


def test_a_taken_port_is_one_line(biggan: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(VkdError, match=f"127.0.0.1:{port}: .*; choose another --port$"):
            server.free_port("127.0.0.1", port)
    assert server.free_port("127.0.0.1", port) == port
    assert server.free_port("127.0.0.1", 0) > 0
    with pytest.raises(VkdError, match="cannot be listened on"):
        server.free_port("no.such.host.invalid", 0)


def test_without_gradio_a_line_says_how_to_install_it(
    biggan: Path, vkd: Vkd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "gradio", None)  # as if not installed
    assert "pip install 'gan-vkd[demo]'" in vkd("demo", biggan, code=1)


def test_runs_are_named_by_their_folders_where_these_differ() -> None:
    assert server.names([Path("a/x"), Path("a/y/")]) == ["x", "y"]
    assert server.names([Path("a/x"), Path("b/x")]) == ["a/x", "b/x"]
