"""Fixtures: small runs (tiny networks on a hundred digits), fake runs for sweeps, judges."""

import hashlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from gan_vkd.data.image_set import ImageSet
from gan_vkd.data.settings import DataSettings
from gan_vkd.evaluation import judge
from gan_vkd.evaluation.evaluator import Evaluator
from gan_vkd.game.settings import Settings, load_settings
from gan_vkd.networks.biggan import Generator
from gan_vkd.report.page.write import ProgressPage
from gan_vkd.report.pictures import save_png
from gan_vkd.sweep.plan import Program
from gan_vkd.teachers.teach import TeachSettings, teach
from gan_vkd.training import train

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

QUICKSTART = [CONFIGS / f"quickstart{arm}.yaml" for arm in ("", "_layernorm", "_whitening")]


def config_of(experiment: str, arm: str) -> Path:
    """The shipped settings of an arm of an experiment, as scripts/arms.sh puts them together."""
    if arm == "none":
        return CONFIGS / experiment
    of_this_data = f"{arm}_{experiment.partition('_')[0]}"
    method = of_this_data if (CONFIGS / "methods" / f"{of_this_data}.yaml").exists() else arm
    resnet = "+methods/resnet" if "+sizes/cpu" in experiment else ""
    form = "+distill.method.form=paper" if resnet and arm == "pkd" else ""
    return CONFIGS / f"{experiment}+methods/{method}{resnet}{form}"


SLOW = (Path(__file__).parent / "slow.txt").read_text().split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of files in slow.txt, and skips those that need CUDA where there is none."""
    for item in items:
        name = item.path.relative_to(Path(__file__).parent).with_suffix("").as_posix()
        if name in SLOW:
            item.add_marker("slow")
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


MakeSettings = Callable[..., Settings]
Trained = Callable[..., Path]
CPU = torch.device("cpu")
SHARES = [0.1] * 10


WRITE_PAGE = ProgressPage.__call__


@pytest.fixture(scope="session", autouse=True)
def no_pages() -> Iterator[None]:
    """Runs write no progress.html, which takes longer than most of the tests' training; those of
    tests/test_progress_page.py do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProgressPage, "__call__", lambda page, status: None)
        yield


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's file as written by `vkd teach`, after two iterations."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("classifier") / "classifier.safetensors"
    data = DataSettings(source="digits", num_images=50)
    teach(TeachSettings(data=data, iterations=2, batch_size=10), file)
    return file


@pytest.fixture(scope="session")
def small(classifier: Path) -> MakeSettings:
    """small("key=value", ..., arm="whitening"): settings of a run that takes seconds.

    arm: "none", or a normalisation: VkD at weight 10 on real and fake images, augmented.
    """

    def make(*overrides: str, arm: str = "whitening") -> Settings:
        settings = [
            f"arm={arm}",
            f"evaluate.features.weights={classifier}",
            "data.num_images=100",
            "model.ch=2",
            "model.z_dim=8",
            "train.batch_size=8",
            "train.precision=float32",
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
        if not any("batch_norm" in item for item in overrides):
            settings.append("evaluate.standing_batches=2")
        if arm != "none":
            name = {"layernorm": "layer_norm"}.get(arm, arm)
            settings += [
                f"distill.teacher={{name: classifier, weights: {classifier}}}",
                f"distill.method.normalization={name}",
                "distill.weight=10",
            ]
        return load_settings(CONFIGS / "quickstart.yaml", [*settings, *overrides])

    return make


@pytest.fixture(scope="session")
def own_run(small: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two iterations, for tests that change copies of it."""
    folder = tmp_path_factory.mktemp("own") / "run"
    train(small("train.iterations=2", "evaluate.every=2"), folder)
    return folder


@pytest.fixture(scope="session")
def trained(small: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """trained("key=value", ..., arm="whitening"): the folder of a finished run of small(...).

    Made once for all tests: a test that changes it takes a copy.
    """
    folder = tmp_path_factory.mktemp("trained")

    @cache
    def run(overrides: tuple[str, ...], arm: str) -> Path:
        new = folder / str(len(list(folder.iterdir())))
        train(small(*overrides, arm=arm), new)
        return new

    return lambda *overrides, arm="whitening": run(overrides, arm)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program that sweeps start instead of `python -m gan_vkd`: it only pretends to train."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    command = [sys.executable, "-S", str(Path(__file__).with_name("fake_run.py"))]
    return Program(command, load_settings)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def evaluator_of(settings: Settings, **given: ImageSet) -> Evaluator:
    """Returns the evaluator of a run on the CPU; given: its reference or training set."""
    cache = settings.cache_folder
    return Evaluator(settings.evaluate, settings.data, "cpu", cache=cache, **given)


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Simulates a full disk by a limit on file sizes. Use it only around the call that is tested:
    pytest's own output file may be longer."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def until(true: Callable[[], Any], seconds: float = 30) -> None:
    """Waits until true() holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"still false after {seconds} s"
        time.sleep(0.02)


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(32, 2, 8, 10).eval()


def write_pngs(images: torch.Tensor, folder: Path) -> str:
    for index, image in enumerate(images):
        save_png(image, folder / f"{index:06d}.png")
    return str(folder)


class FakeInception(torch.nn.Module):
    """Stands in for Inception's TorchScript: `layers` gives 2,048 features per image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.AvgPool2d(29, 10), torch.nn.Flatten(), torch.nn.Linear(3 * 28 * 28, 2048)
        )
        self.output = torch.nn.Linear(2048, 1008)

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        if return_features:  # images of any size
            x = torch.nn.functional.interpolate(x, (299, 299), mode="bilinear")
            return self.layers((x - 128) / 128)
        return self.output(self.layers(x)).softmax(1)


@pytest.fixture
def inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in whose digest is accepted as that of the published file."""
    torch.manual_seed(0)
    file = tmp_path / "weights.pt"
    torch.jit.script(FakeInception()).save(str(file))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(judge, "INCEPTION_SHA256", digest)
    return file
