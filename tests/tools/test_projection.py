"""Projection: a generator's own picture is found again, and the same for a seed."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gan_vkd.distill import Layer, Teacher
from gan_vkd.networks import stylegan2 as networks
from gan_vkd.runtime.checkpoint import load_weights
from gan_vkd.tools.inputs import inputs_of, load, pictures
from gan_vkd.tools.perceptual import Distance, last_maps
from gan_vkd.tools.projection import correlation, noise_at, rate_at
from tests.tools.conftest import Vkd, pixels

SPACES = [("stylegan2", "w"), ("stylegan2", "w+"), ("biggan", "z")]


class Small(nn.Module):
    """Maps of 16 and 8 pixels, and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.third(self.second(self.first(x)))).flatten(1)


def small_network() -> Teacher:
    torch.manual_seed(0)
    return Teacher(Small(), mean=[0.5] * 3, std=[0.5] * 3, layers=[Layer("pool")])


def test_the_published_schedules() -> None:
    """By hand: Karras et al., CVPR 2020, appendix D."""
    assert rate_at(0) == 0
    assert rate_at(0.025) == pytest.approx(0.05)
    assert rate_at(0.05) == rate_at(0.5) == rate_at(0.75) == pytest.approx(0.1)
    assert rate_at(0.875) == pytest.approx(0.05)
    assert rate_at(1) == pytest.approx(0)
    assert noise_at(0) == 0.05
    assert noise_at(0.375) == pytest.approx(0.05 / 4)
    assert noise_at(0.75) == noise_at(1) == 0


def test_correlation_against_loops() -> None:
    noise = torch.randn(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total, level = 0.0, noise.tolist()
    while True:
        n = len(level)
        across = sum(level[i][j] * level[i][j - 1] for i in range(n) for j in range(n)) / n**2
        down = sum(level[i][j] * level[i - 1][j] for i in range(n) for j in range(n)) / n**2
        total += across**2 + down**2
        if n <= 8:
            break
        level = [
            [sum(level[2 * i + a][2 * j + b] for a in (0, 1) for b in (0, 1)) / 2
             for j in range(n // 2)] for i in range(n // 2)
        ]  # fmt: skip
    assert float(correlation(noise)) == pytest.approx(total)


def test_the_last_map_of_each_size_is_read() -> None:
    assert last_maps(small_network(), torch.zeros(1, 3, 32, 32)) == ["second", "third"]


def test_the_distance_against_its_formula() -> None:
    network = small_network()
    a, b = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    perceptual, of_pixels = Distance(network, a)(b)
    inner, expected = network.network, []
    for names in (["first", "second"], ["first", "second", "third"], None):
        maps = []
        for image in (a, b):
            if names is None:
                x = inner(image)[:, :, None, None]
            else:
                x = image
                for name in names:
                    x = inner.get_submodule(name)(x)
            maps.append(x / x.norm(dim=1, keepdim=True))
        expected.append((maps[0] - maps[1]).square().sum(1).mean())
    torch.testing.assert_close(perceptual[0], torch.stack(expected).mean())
    torch.testing.assert_close(of_pixels[0], (a - b).square().mean())


@pytest.mark.parametrize("channels", [1, 4])
def test_the_distance_of_grey_and_transparent_pictures(channels: int) -> None:
    target = torch.rand(1, channels, 16, 32) * 2 - 1
    distance = Distance(small_network(), target)
    assert [float(value) for value in distance(target)] == [0, 0]
    other = target.clone()
    other[:, -1] = -other[:, -1]
    assert all(float(value) > 0 for value in distance(other))


@pytest.mark.parametrize(("name", "space"), SPACES)
def test_a_generators_own_picture_is_found(
    name: str, space: str, runs: dict[str, Path], vkd: Vkd, tmp_path: Path
) -> None:
    """The distances fall by ten times and more, and the stored latent makes the stored picture."""
    vkd("sample", runs[name], "--out", tmp_path, "--seeds", "7")
    folder, picture = tmp_path / "found", tmp_path / "seed000007.png"
    options = ["--space", space, "--steps", 200, "--out", folder, "--device", "cpu"]
    line = vkd("project", runs[name], picture, *options)
    assert f"{folder}: perceptual distance" in line
    names = {"projected.safetensors", "projected.png", "projection.png", "curve.png"}
    assert {file.name for file in folder.iterdir()} == names
    state, facts = load_weights(folder / "projected.safetensors")
    assert facts["steps"] == 200
    for kind in ("perceptual", "pixels"):
        assert facts[kind]["end"] < facts[kind]["start"] / 10, kind
    found = pixels(folder / "projected.png")
    difference = (found.float() - pixels(picture).float()) / 127.5
    assert float(difference.square().mean()) == pytest.approx(facts["pixels"]["end"], abs=1e-4)
    assert torch.equal(picture_of(runs[name], state), found)


def picture_of(run: Path, state: dict[str, Tensor]) -> Tensor:
    """As docs/tools.md does it."""
    generator, _ = load(run, "cpu")
    if "z" in state:
        return pictures(generator, state["z"][None], state["label"][None])[0]
    assert isinstance(generator, networks.Generator)
    w = state.pop("w")
    generator.load_state_dict(state, strict=False)
    return pictures(generator.synthesis, w[None])[0]


def test_a_projection_is_determined_by_its_seed(stylegan2: Path, vkd: Vkd, tmp_path: Path) -> None:
    vkd("sample", stylegan2, "--out", tmp_path, "--seeds", "7")

    def project(name: str, seed: int) -> dict[str, Tensor]:
        options = ["--steps", 5, "--seed", seed, "--out", tmp_path / name]
        torch.manual_seed(len(name))
        vkd("project", stylegan2, tmp_path / "seed000007.png", *options)
        return load_file(tmp_path / name / "projected.safetensors")

    first, again, other = project("a", 1), project("bb", 1), project("c", 2)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["w"], other["w"])


def test_the_noise_maps_are_normalised(stylegan2: Path, vkd: Vkd, tmp_path: Path) -> None:
    vkd("sample", stylegan2, "--out", tmp_path, "--seeds", "7")
    options = ["--steps", 5, "--out", tmp_path, "--video", tmp_path / "x.gif"]
    vkd("project", stylegan2, tmp_path / "seed000007.png", *options)
    assert (tmp_path / "x.gif").exists()
    state = load_file(tmp_path / "projected.safetensors")
    assert state.pop("w").shape == (8, 8)
    assert len(state) == 7
    for noise in state.values():
        assert float(noise.mean()) == pytest.approx(0, abs=1e-6)
        assert float(noise.square().mean()) == pytest.approx(1, abs=1e-5)


def test_what_cannot_be_projected_is_one_line(
    runs: dict[str, Path], vkd: Vkd, tmp_path: Path
) -> None:
    out, picture = tmp_path / "out", tmp_path / "seed000007.png"
    vkd("sample", runs["biggan"], "--out", tmp_path, "--seeds", "7")

    def refused(run: str, *options: object, code: int) -> str:
        return vkd("project", runs[run], *options, "--out", out, code=code)

    assert "--space w+ needs a latent w" in refused("biggan", picture, "--space", "w+", code=2)
    assert "expected z, w or w+" in refused("stylegan2", picture, "--space", "x", code=2)
    assert "no such file" in refused("biggan", tmp_path / "no.png", code=1)
    (tmp_path / "text.png").write_text("x")
    assert "text.png: not an image" in refused("biggan", tmp_path / "text.png", code=1)
    for none in ("evaluate.features={name: inception}", "evaluate.features=null"):
        message = refused("biggan", picture, none, code=1)
        assert "no checkpoint in this run folder (weights of discriminator)" in message
    assert not out.exists()


def test_the_start_in_z_is_the_nearest_of_many(biggan: Path, vkd: Vkd, tmp_path: Path) -> None:
    generator, facts = load(biggan, "cpu")
    vkd("sample", biggan, "--out", tmp_path, "--seeds", "7", "--class", "dog")
    vkd("project", biggan, tmp_path / "seed000007.png", "--steps", 1, "--out", tmp_path / "x")
    start = load_weights(tmp_path / "x" / "projected.safetensors")[1]["pixels"]["start"]
    target = pixels(tmp_path / "seed000007.png")
    drawn = pictures(generator, *inputs_of(generator, facts["shares"], range(30)))
    apart = ((drawn.float() - target) / 127.5).square().mean((1, 2, 3))
    assert start < float(apart[torch.arange(30) != 7].median())
    assert math.isfinite(start)
