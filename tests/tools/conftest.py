"""Run folders with tiny untrained generators of both kinds, shared by all tests of the tools."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gan_vkd.cli import main
from gan_vkd.game.settings import load_settings
from gan_vkd.networks.interface import NETWORKS
from gan_vkd.run import Run

MODELS = {
    "stylegan2": "{name: stylegan2, channel_base: 256, channel_max: 16, z_dim: 8, w_dim: 8}",
    "biggan": "{ch: 2, z_dim: 8}",
}
NAMES = ["cat", "dog", "1"]
SHARES = [0.5, 0.25, 0.25]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, classifier: Path) -> dict[str, Path]:
    """Run folders by the network's name: three classes, a judge, two sample grids."""
    top, folders = tmp_path_factory.mktemp("tools"), {}
    for name, model in MODELS.items():
        file = top / f"{name}.yaml"
        file.write_text(
            f"arm: none\ndevice: cpu\ndata: {{source: digits}}\nmodel: {model}\n"
            f"evaluate: {{num_samples: 20, features: {{name: classifier, weights: {classifier}}}}}"
        )
        settings = load_settings(file)
        torch.manual_seed(0)
        generator = NETWORKS.make(settings.model.chosen).generator(settings.data.shape, 3)
        for key, value in generator.named_parameters():
            if key.endswith("noise_strength"):
                value.data.fill_(0.03)
            elif "torgb.weight" in key:  # within the range of images
                value.data.mul_(0.15)
            elif name == "biggan":  # an untrained one is almost black
                value.data.mul_(6)
        run = Run(top / name)
        run.write_settings(settings.dump())
        run.export(generator, {"iteration": 5, "shares": SHARES, "names": NAMES})
        folders[name] = run.path
    return folders


@pytest.fixture(scope="session")
def stylegan2(runs: dict[str, Path]) -> Path:
    return runs["stylegan2"]


@pytest.fixture(scope="session")
def biggan(runs: dict[str, Path]) -> Path:
    return runs["biggan"]


def pixels(file: Path) -> Tensor:
    """(C, H, W) uint8."""
    with Image.open(file) as image:
        return torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1)


Vkd = Callable[..., str]


@pytest.fixture
def vkd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Vkd:
    """vkd(argument, ..., code=0): runs the command; returns its output, or the line of an error."""

    def call(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["vkd", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        assert (caught.value.code or 0) == code, err
        if code:
            assert len(err.splitlines()) == 1, err
        return err if code else out

    return call
