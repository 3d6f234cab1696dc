"""Captured steps equal eager ones to the bit, here on a stand-in for CUDA graphs."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gan_vkd.game.settings import Settings
from gan_vkd.run import Run
from gan_vkd.runtime import graphs
from gan_vkd.runtime.checkpoint import load_state, save_state
from gan_vkd.runtime.graphs import Replayed
from gan_vkd.runtime.meter import Meter
from gan_vkd.training import Game
from tests.conftest import MakeSettings
from tests.graphs import recorded
from tests.states import flat
from tests.test_training import BALANCED, LAYERS, LOOKED_UP

REGULARIZED = "regularize={lecam: 0.3, lecam_start: 1, consistency: 2, r1: 0.5, r1_every: 3}"
SOMETIMES = "augment=[{name: color, p: 0.5}, {name: cutout, p: {start: 1, end: 0, iterations: 9}}]"
EVERY_THIRD = "distill.method.normalization.every=3"
METHODS = ("fitnets", "rkd", "pkd", "spkd", "vicreg")
ARMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "none": ("none", ()),
    "regularised": ("none", (REGULARIZED,)),
    "ada": ("none", ("augment=[{name: ada, p: 0.5, every: 2, kimg: 0.1}]",)),
    "augmented at times": ("none", (SOMETIMES,)),
    "stylegan2": (
        "whitening",
        (
            "model={name: stylegan2, channel_base: 64}",
            "adversary=non_saturating",
            "regularize={r1: auto, r1_every: 2, path_length: 2, path_length_every: 2}",
            EVERY_THIRD,
        ),
    ),
    "r3gan": (
        "whitening",
        (
            "model={name: r3gan, channel_base: 256, channel_max: 8, group_width: 4, z_dim: 8}",
            "adversary=relativistic",
            "augment=[{name: ada, p: 0.5, ramp: 0.05, color_share: 0.5, groups: [color, cutout]}]",
            "regularize={r1: {start: 2, end: 1, iterations: 30}, r2: 1, r1_every: 1}",
            "train.betas=[0, {start: 0.9, end: 0.99, iterations: 4}]",
            EVERY_THIRD,
        ),
    ),
    "relativistic": ("none", ("adversary=relativistic", "augment=[color, translation, cutout]")),
    "frozen layers": ("none", (REGULARIZED, "train.freeze_d=2")),
    "layer norm": ("layernorm", ()),
    "grey rectangles": (
        "whitening",
        ("data.channels=1", "data.resolution=[32, 40]", "augment=[color, cutout]", EVERY_THIRD),
    ),
    "whitening": ("whitening", (EVERY_THIRD,)),
    "every second update": ("whitening", ("distill.every=2", EVERY_THIRD)),
    "features looked up": ("whitening", LOOKED_UP),
    "balanced": ("whitening", BALANCED),
    "two layers": ("whitening", (*LAYERS, EVERY_THIRD)),
    **{name: ("none", (f"distill.method={name}",)) for name in METHODS},
}


@pytest.fixture(autouse=True)
def _captured_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "EAGER", 2)


def build(make: MakeSettings, folder: Path, captured: bool, arm: str, *overrides: str) -> Game:
    game = start(make(*overrides, "data.flip=true", arm=arm), folder, "cpu")
    if captured:
        game.updates.d_step.capture = game.updates.g_step.capture = recorded
    return game


def start(settings: Settings, folder: Path, device: str) -> Game:
    torch.manual_seed(1)
    return Game(settings, Run(folder), device)


def train(game: Game, first: int, last: int, meter: Meter) -> None:
    for done in range(first, last):
        meter.begin(done + 1)
        game.step(done, meter)
    assert meter.fault() is None


def assert_equal(one: dict[str, object], other: dict[str, object]) -> None:
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = (
            torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name]
        )
        assert same, name


@pytest.mark.parametrize("name", ARMS)
def test_replayed_steps_equal_eager_ones(
    name: str, small: MakeSettings, classifier: Path, tmp_path: Path
) -> None:
    """Including steps that are eager in between: decompositions, and penalties that are rare."""
    arm, overrides = ARMS[name]
    if name in METHODS:
        overrides += (f"distill.teacher={{name: classifier, weights: {classifier}}}",)
    states, means = [], []
    for captured in (False, True):
        game, meter = build(small, tmp_path, captured, arm, *overrides), Meter()
        train(game, 0, 12, meter)
        states.append(game.trainer.state())
        means.append(meter.take())
        if captured:
            assert game.updates.d_step.graphs
            assert game.updates.g_step.graphs
    assert_equal(*states)
    assert means[0] == means[1]


@pytest.mark.cuda
@pytest.mark.parametrize("name", [name for name in ARMS if name not in METHODS])
def test_cuda_graphs_equal_eager_steps(name: str, small: MakeSettings, tmp_path: Path) -> None:
    """To the bit, as a resumed run has its first steps eager again."""
    arm, overrides = ARMS[name]
    states = []
    for graph in (False, True):
        settings = small(*overrides, "data.flip=true", f"train.graph={graph}", arm=arm)
        with graphs.own_stream("cuda"):
            game, meter = start(settings, tmp_path, "cuda"), Meter("cuda")
            train(game, 0, 12, meter)
        assert bool(game.updates.d_step.graphs) == bool(game.updates.g_step.graphs) == graph
        states.append(game.trainer.state())
    assert_equal(*states)


def test_a_rollback_restores_what_the_graphs_refer_to(small: MakeSettings, tmp_path: Path) -> None:
    """States are loaded in place, and learning rates are read on the device."""
    whole = build(small, tmp_path, False, "whitening")
    train(whole, 0, 4, Meter())
    torch.manual_seed(2)
    whole.trainer.set_learning_rates(0.5)
    train(whole, 4, 10, Meter())

    game, meter = build(small, tmp_path, True, "whitening"), Meter()
    train(game, 0, 4, meter)
    save_state(tmp_path / "state", game.trainer.state())
    train(game, 4, 8, meter)
    graphs_before = dict(game.updates.d_step.graphs)
    game.trainer.load_state(load_state(tmp_path / "state"))
    torch.manual_seed(2)
    game.trainer.set_learning_rates(0.5)
    train(game, 4, 10, meter)
    assert graphs_before.items() <= game.updates.d_step.graphs.items()
    assert_equal(whole.trainer.state(), game.trainer.state())


def test_a_step_that_cannot_be_captured_stays_eager(
    small: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whitening by the statistics of each batch decomposes, hence synchronises, in each update."""
    options = (EVERY_THIRD, "distill.method.normalization.statistics=batch")
    states = []
    for captured in (False, True):
        game = build(small, tmp_path, captured, "whitening", *options)
        train(game, 0, 6, Meter())
        states.append(game.trainer.state())
    assert game.updates.d_step.capture is None
    assert game.updates.g_step.graphs
    said = capsys.readouterr().out
    assert said.count("CUDA graphs are not used") == 1
    assert "cannot be captured" in said
    # the recorder, unlike a GPU, has executed the step up to the operation that it refused
    assert flat(states[0]).keys() == flat(states[1]).keys()


def test_a_step_of_many_variants_becomes_eager(capsys: pytest.CaptureFixture[str]) -> None:
    total = torch.zeros(())
    step = Replayed(lambda value, _: total.add_(value), recorded)
    for variant in [*range(graphs.MOST + 1)] * 4:
        step(variant, torch.tensor(1.0), variant)
    assert total == 4 * (graphs.MOST + 1)
    assert not step.graphs
    assert "more than" in capsys.readouterr().out


def test_arguments_are_copied_and_the_host_counts_replays() -> None:
    total, counted = torch.zeros(()), []

    def add(value: Tensor, factor: int) -> None:
        total.add_(value * factor)

    step = Replayed(add, recorded, after_replay=lambda value, factor: counted.append(factor))
    for number in range(8):
        step(number % 2, torch.tensor(float(number)), number % 2)
    assert total == 1 + 3 + 5 + 7
    assert counted == [0, 1] * (8 // 2 - graphs.EAGER - 1)  # a capture counts by itself


def test_on_a_cpu_every_step_is_eager(small: MakeSettings, tmp_path: Path) -> None:
    game = build(small, tmp_path, False, "none")
    assert game.updates.d_step.capture is None
    with graphs.own_stream("cpu"):
        train(game, 0, 1, Meter())
