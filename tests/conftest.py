"""Runs for tests: small ones (tiny networks on a hundred digits), and fake ones for sweeps."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from gan_vkd import sweep
from gan_vkd.config import DataSettings, Settings, load_settings
from gan_vkd.teach import TeachSettings, teach

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

QUICKSTART = [CONFIGS / f"quickstart{arm}.yaml" for arm in ("", "_layernorm", "_whitening")]
MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's file as `vkd teach` writes it, hardly trained."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    data = DataSettings(source="digits", num_images=50)
    teach(TeachSettings(data=data, iterations=2, batch_size=10), file)
    return file


@pytest.fixture
def small(classifier: Path) -> MakeSettings:
    """small("key=value", ..., arm="whitening"): settings of a run that takes seconds."""

    def make(*overrides: str, arm: str = "whitening") -> Settings:
        name = "quickstart.yaml" if arm == "none" else f"quickstart_{arm}.yaml"
        settings = [
            f"evaluate.features.weights={classifier}",
            "data.num_images=100",
            "model.ch=2",
            "model.z_dim=8",
            "train.batch_size=8",
            "train.d_steps=2",
            "train.iterations=6",
            "train.ema_start=2",
            "train.log_every=1",
            "train.sample_every=100",
            "train.checkpoint_every=2",
            "evaluate.every=3",
            "evaluate.num_samples=20",
            "device=cpu",
        ]
        if arm != "none":
            settings += [f"distill.teacher.weights={classifier}", "distill.weight=10"]
        return load_settings(CONFIGS / name, [*settings, *overrides])

    return make


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program that sweeps start, in the place of `python -m gan_vkd`."""
    file = Path(__file__).with_name("fake_run.py")
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    command = [sys.executable, "-S", str(file)]
    monkeypatch.setattr(sweep, "GANS", sweep.GANS._replace(command=command))
    return file


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """A limit on the size of files stands in for a full disk. Only around the call that is tested:
    pytest's own output may be a longer file."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def until(true: Callable[[], Any], seconds: float = 30) -> None:
    """Waits for what must come true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
