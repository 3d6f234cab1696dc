"""What this project wrote into a data folder is not data, nor are hidden folders; pictures of
formats that are not read are reported."""

import sys
import types

import numpy as np
import pytest
from PIL import Image

from gan_vkd.data import decoding
from gan_vkd.data.images import read_images
from tests.test_images import both, make, noise, png, refusal

RUN = ("settings.yaml", "metrics.jsonl", "checkpoints/00000002.safetensors", ".lock")


def run_at(place: str, *marks: str) -> dict[str, bytes]:
    return {f"{place}/{name}": b"" for name in marks} | {f"{place}/samples/00000002.png": png(9)}


@both
@pytest.mark.parametrize("mark", RUN[1:])
def test_pictures_of_run_folders_are_left_out(kind, mark, tmp_path, capsys):
    files = {"a.png": png(0), "b.png": png(1), "settings.yaml": b""}  # alone, no run's
    files |= run_at("runs/sweep/x_seed0", "settings.yaml", mark) | run_at("runs/y", *RUN)
    files["runs/sweep/x_seed0/neighbours.png"] = png(8)
    path = make(kind, tmp_path, {f"top/{name}": data for name, data in files.items()})
    assert read_images(path, 32)[1:] == (["top/a.png", "top/b.png"], ["", ""])
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    assert f"skipped: {path}: run folders, " in out
    assert ": 2 (first: top/runs/sweep/x_seed0)" in out


@both
def test_only_data_is_left(kind, tmp_path, capsys):
    files = {"cat/a.png": png(0), "dog/b.png": png(1), "dog/samples.png": png(2)}
    extra = {"table.md": b"", "table.csv": b"", "samples.png": png(3), "curves.png": png(4)}
    extra |= {"out/table.md": b"", "out/table.csv": b"", "out/samples.png": png(3)}
    extra |= {".cache/x.png": png(5), "cat/.old/deep/x.png": png(6), ".git/config": b""}
    extra |= {"cat/._a.png": b"", "__MACOSX/cat/._a.png": b""} | run_at("dog/run", *RUN)
    path = make(kind, tmp_path, files | extra)
    images, names, classes = read_images(path, 32)
    assert (names, classes) == (sorted(files), ["cat", "dog", "dog"])
    np.testing.assert_array_equal(images, [noise(seed, 32, 32, 3) for seed in range(3)])
    out = capsys.readouterr().out
    assert out == (
        f"skipped: {path}: run folders, hidden folders and pictures of comparisons: 6 "
        "(first: .cache)\n"
    )


def test_nothing_is_said_about_a_folder_of_images(tmp_path, capsys):
    read_images(make("folder", tmp_path, {"cat/a.png": png(), "dog/b.png": png()}), 32)
    assert capsys.readouterr().out == ""


@both
def test_a_run_in_the_folder_of_the_data_itself_is_left_out(kind, tmp_path, capsys):
    """So that a run that was trained into it can be resumed."""
    run = dict.fromkeys(RUN, b"") | {"neighbours.png": png(), "scores/1.png": png()}
    run["samples/1.png"] = png()
    path = make(kind, tmp_path, run | {"cat/a.png": png(), "dog/samples/b.png": png()})
    assert read_images(path, 32)[1] == ["cat/a.png", "dog/samples/b.png"]
    assert ": 3 (first: neighbours.png)" in capsys.readouterr().out


@both
def test_a_run_folder_is_no_data(kind, tmp_path):
    path = make(kind, tmp_path, dict.fromkeys(RUN, b"") | {"samples/1.png": png()})
    assert "no images (" in refusal(path)


def test_very_deep_folders_in_a_zip_are_read(tmp_path):
    name = "./a/" + "a/" * 20_000 + "x.png"
    assert read_images(make("zip", tmp_path, {name: png()}), 32)[1] == [name]


@both
def test_pictures_of_other_formats_are_reported(kind, tmp_path, capsys):
    files = {"b.png": png(), "IMG_1.NEF": b"", "icon.svg": b"", "run.txt": b"", ".x.psd": b""}
    path = make(kind, tmp_path, files)
    read_images(path, 32)
    out = capsys.readouterr().out
    assert out == (
        f"skipped: {path}: pictures of formats that are not read: 2 (first: IMG_1.NEF); convert "
        "them to PNG or JPEG\n"
    )


@pytest.fixture
def without_heif(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if not installed
    decoding.reads_heif.cache_clear()
    yield
    decoding.reads_heif.cache_clear()


def test_heic_needs_pillow_heif(tmp_path, without_heif):
    path = make("folder", tmp_path, {f"IMG_{i}.HEIC": b"" for i in range(3)})
    message = refusal(path)
    assert "no images (" in message
    assert "pictures of formats that are not read: 3 (first: IMG_0.HEIC)" in message
    assert message.endswith("or for HEIC: pip install pillow-heif")


def test_heic_is_read_through_pillow_heif(tmp_path, monkeypatch, without_heif):
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    Image.preinit()
    png_reader = Image.OPEN["PNG"]

    def register() -> None:
        Image.register_open("HEIF", png_reader[0], png_reader[1])

    fake = types.SimpleNamespace(register_heif_opener=register)
    monkeypatch.setitem(sys.modules, "pillow_heif", fake)
    path = make("folder", tmp_path, {"a.HEIC": png(1), "b.png": png(2), "c.heif": png(3)})
    images, names, _ = read_images(path, 32)
    assert names == ["a.HEIC", "b.png", "c.heif"]
    np.testing.assert_array_equal(images, [noise(seed, 32, 32, 3) for seed in (1, 2, 3)])
