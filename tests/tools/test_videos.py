"""Interpolations, progress videos and their files."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from gan_vkd.data.shape import Shape
from gan_vkd.networks.interface import NETWORKS
from gan_vkd.report.pictures import save_png
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.tools.inputs import load, pictures
from gan_vkd.tools.interpolation import (
    blended_classes,
    interpolated,
    points,
    slerp,
    space_of,
    walk,
)
from gan_vkd.tools.video import write_video
from tests.tools.conftest import Vkd


def frames_of(file: Path) -> list[np.ndarray]:
    with Image.open(file) as video:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(video)]


def test_slerp_follows_the_arc() -> None:
    a, b = torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [0.0, 3.0]])
    for t in (0.0, 0.25, 0.5, 1.0):
        angle = t * math.pi / 2
        arc = torch.tensor([math.cos(angle), math.sin(angle)])
        torch.testing.assert_close(slerp(a, b, t)[0], 2 * arc)
        torch.testing.assert_close(slerp(a, b, t)[1], arc * torch.tensor([1.0, 3.0]))


def test_slerp_keeps_the_length_of_normal_latents() -> None:
    a, b = torch.randn(2, 50, 512, generator=torch.Generator().manual_seed(0))
    for t in (0.3, 0.5):
        assert (slerp(a, b, t).norm(dim=1) / math.sqrt(512) - 1).abs().max() < 0.12
        assert (a.lerp(b, t).norm(dim=1) / math.sqrt(512)).max() < 0.9


def test_slerp_of_one_direction_is_linear() -> None:
    a = torch.randn(3, 8)
    assert torch.equal(slerp(a, a, 0.3), a)
    torch.testing.assert_close(slerp(a, 3 * a, 0.5), 2 * a)
    assert slerp(a, -a, 0.5).isfinite().all()


def test_a_walk_is_closed_and_even() -> None:
    steps = list(walk(3, 4))
    assert len(steps) == 12
    assert steps[0] == (0, 1, 0.0)
    assert steps[-1] == (2, 0, 0.75)
    assert list(walk(1, 2)) == [(0, 0, 0.0), (0, 0, 0.5)]


@pytest.mark.parametrize(
    ("name", "space"), [("stylegan2", "w"), ("stylegan2", "z"), ("biggan", "z")]
)
def test_a_walk_passes_through_the_pictures_of_its_seeds(
    name: str, space: str, runs: dict[str, Path]
) -> None:
    generator, facts = load(runs[name], "cpu")
    latents, labels = points(generator, facts, [0, 1, 2], ["cat", "cat", "dog"])
    frames = list(interpolated(generator, latents, labels, 4, space))
    own = pictures(generator, latents, labels)
    assert len(frames) == 12
    for index, picture in enumerate(own):
        assert (frames[4 * index].int() - picture.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("name", "space"), [("stylegan2", "w"), ("stylegan2", "z"), ("biggan", "z")]
)
def test_a_walk_has_no_jumps(name: str, space: str, runs: dict[str, Path]) -> None:
    """Steps of a sixteenth of the length change the picture less, also between classes."""
    generator, facts = load(runs[name], "cpu")
    latents, labels = points(generator, facts, [0, 1], ["cat", "dog"])

    def largest(frames: int) -> float:
        shown = torch.stack(list(interpolated(generator, latents, labels, frames, space)))
        changes = (shown.float() - shown.roll(1, 0)).abs().mean((1, 2, 3))
        assert (changes > 0).all()
        return float(changes.max())

    assert largest(48) < largest(3) / 4


@pytest.mark.parametrize(
    "network",
    [
        {"name": "biggan", "ch": 2, "z_dim": 8},
        {"name": "r3gan", "channel_base": 64, "channel_max": 4, "group_width": 2, "z_dim": 8},
    ],
)
def test_the_classes_of_a_walk_are_blended(network: dict[str, Any]) -> None:
    torch.manual_seed(0)
    generator = NETWORKS.make(network).generator(Shape(3, 32, 32), 3).eval()
    for p in generator.parameters():
        p.data.mul_(4)
    z, labels = torch.randn(3, 8), torch.tensor([0, 2, 1])
    with torch.no_grad(), blended_classes(generator, torch.eye(3)[labels]):
        blended = generator(z, labels * 0)
    with torch.no_grad():
        torch.testing.assert_close(blended, generator(z, labels))
        assert not torch.equal(generator(z, labels * 0), blended)  # the hooks are gone


def test_the_shorter_list_of_a_walk_is_repeated(stylegan2: Path) -> None:
    generator, facts = load(stylegan2, "cpu")
    latents, labels = points(generator, facts, [3], ["cat", "dog", "1"])
    assert labels.tolist() == [0, 1, 2]
    assert torch.equal(latents[0], latents[2])
    latents, labels = points(generator, facts, [3, 4, 5], ["dog"])
    assert labels.tolist() == [1, 1, 1]
    assert not torch.equal(latents[0], latents[1])


def test_the_space_of_a_walk(runs: dict[str, Path]) -> None:
    style, big = (load(runs[name], "cpu")[0] for name in ("stylegan2", "biggan"))
    assert (space_of(style, None, Path()), space_of(style, "z", Path())) == ("w", "z")
    assert space_of(big, None, Path()) == "z"
    with pytest.raises(SettingsError, match="--space w needs a latent w, and the network of RUN"):
        space_of(big, "w", Path("RUN"))
    with pytest.raises(SettingsError, match="expected z or w"):
        space_of(style, "x", Path())


def test_an_interpolation_is_written_as_gif(biggan: Path, vkd: Vkd, tmp_path: Path) -> None:
    out = tmp_path / "x.gif"
    options = ["--seeds", "0-1", "--frames", 3, "--fps", 15, "--class", "cat,dog"]
    assert vkd("interpolate", biggan, "--out", out, *options) == f"{out}\n"
    frames = frames_of(out)
    assert len(frames) == 6
    assert frames[0].shape == (128, 128, 3)
    with Image.open(out) as video:
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(video)]
        assert video.info["loop"] == 0  # forever
    assert sum(times) == 400
    assert set(times) <= {60, 70}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_gifs_have_the_frames_in_their_order(channels: int, tmp_path: Path) -> None:
    levels = [0, 100, 200]
    frames = [torch.full((channels, 9, 12), level, dtype=torch.uint8) for level in levels]
    if channels == 4:
        for frame in frames:
            frame[3] = 255
    write_video(frames, tmp_path / "x.gif", 10)
    found = frames_of(tmp_path / "x.gif")
    assert [int(frame.min()) for frame in found] == [int(frame.max()) for frame in found] == levels
    assert found[0].shape == (9, 12, 3)


def test_transparent_frames_are_put_on_white(tmp_path: Path) -> None:
    frame = torch.zeros(4, 8, 8, dtype=torch.uint8)
    frame[3, :4] = 255
    write_video([frame], tmp_path / "x.gif", 10)
    (found,) = frames_of(tmp_path / "x.gif")
    assert (found[:4] == 0).all()
    assert (found[4:] == 255).all()


def test_mp4_has_even_sides_and_all_frames(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    import imageio.v2

    levels = [20, 120, 220]
    frames = (torch.full((3, 33, 47), level, dtype=torch.uint8) for level in levels)
    write_video(frames, tmp_path / "x.mp4", 25)
    assert [file.name for file in tmp_path.iterdir()] == ["x.mp4"]
    reader = imageio.v2.get_reader(tmp_path / "x.mp4")
    found = [np.asarray(frame).astype(float) for frame in reader]
    assert reader.get_meta_data()["fps"] == 25
    assert [frame.shape for frame in found] == [(34, 48, 3)] * 3
    for frame, level in zip(found, levels, strict=True):
        assert abs(frame - level).max() < 5


def test_a_missing_imageio_is_one_line_with_the_command(
    monkeypatch: pytest.MonkeyPatch, stylegan2: Path, vkd: Vkd, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setitem(sys.modules, "imageio.v2", None)
    message = vkd("interpolate", stylegan2, "--out", tmp_path / "x.mp4", code=1)
    assert "pip install imageio imageio-ffmpeg, or write a .gif" in message
    assert "ends in .gif or .mp4" in vkd(
        "interpolate", stylegan2, "--out", tmp_path / "x.avi", code=2
    )
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    def frames():
        yield torch.zeros(3, 8, 8, dtype=torch.uint8)
        raise VkdError("stopped")

    for name in ("x.gif", "x.mp4"):
        if name == "x.mp4":
            pytest.importorskip("imageio_ffmpeg")
        with pytest.raises(VkdError, match="stopped"):
            write_video(frames(), tmp_path / name, 10)
        assert list(tmp_path.iterdir()) == []


def grids(run: Path, iterations: list[int], size: int = 70) -> None:
    for index, iteration in enumerate(iterations):
        picture = torch.full((3, size, size), 40 * index, dtype=torch.uint8)
        save_png(picture, run / "samples" / f"{iteration:08d}.png")


def test_progress_shows_the_grids_in_order_and_holds_the_last(vkd: Vkd, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "x.gif"
    grids(run, [100, 20, 3000])
    (run / "settings.yaml").write_text("")
    save_png(torch.zeros(3, 9, 9, dtype=torch.uint8), run / "samples" / "mine.png")
    vkd("progress", run, "--out", out, "--fps", 2)
    found = frames_of(out)
    centres = [int(frame[60, 36].mean()) for frame in found]
    assert centres == [40, 0, 80]
    with Image.open(out) as video:
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(video)]
    assert times == [500, 500, 2000]


def test_progress_refuses_what_it_cannot_show(vkd: Vkd, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "x.gif"
    run.mkdir()
    (run / "settings.yaml").write_text("")
    assert "no sample grids" in vkd("progress", run, "--out", out, code=1)
    grids(run, [1])
    grids(run, [2], size=80)
    assert "00000002.png: of another size" in vkd("progress", run, "--out", out, code=1)
    (run / "samples" / "00000002.png").write_bytes(b"x")
    assert "00000002.png: not a PNG file" in vkd("progress", run, "--out", out, code=1)
    assert not out.exists()
