"""The reproduction study: settings of its cells, and their common initial weights."""

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan_vkd.data.batches import Batch
from gan_vkd.distill import Teacher
from gan_vkd.game.build import build_trainer
from gan_vkd.game.settings import Settings, load_settings
from gan_vkd.game.trainer import Trainer
from scripts.iterations_that_fit import iterations_that_fit
from tests.conftest import config_of

FEATURES = {"pooled": "pooled", "head": "head"}
PROJECTIONS = {"trained": "orthogonal", "fixed": "orthogonal_fixed"}
WHITENINGS: dict[str, dict[str, Any]] = {
    "zca": {},
    "cholesky": {
        "kind": "cholesky", "statistics": "batch", "eps": 0.0, "momentum": 0.01, "shrinkage": 0.0,
    },
}  # fmt: skip
AGGREGATED = {"removed": 0.0, "kept": 10.0}
CELLS = ["_".join(cell) for cell in product(FEATURES, PROJECTIONS, WHITENINGS, AGGREGATED)]
PARTS = {
    "head": "distill.student.feature=head",
    "fixed": "distill.method.projection=orthogonal_fixed",
    "cholesky": "methods/cholesky",
    "kept": "distill.aggregated=10",
}
SMALL = ["model.ch=2", "model.z_dim=8", "train.batch_size=4", "device=cpu"]
TEACHER_WIDTH = 12


def cell(name: str) -> Path:
    """Returns the settings of a cell as scripts/cifar10_reproduction.sh composes them."""
    chosen = [PARTS[choice] for choice in name.split("_") if choice in PARTS]
    return Path("+".join(["cifar10_10pct+methods/whitening", *chosen, f"arm={name}"]))


ARMS = {"none": Path("cifar10_10pct"), "kd_dlgm": Path("cifar10_10pct+methods/kd_dlgm")}
ARMS |= {name: cell(name) for name in CELLS}


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_differs_from_the_published_arm_in_its_four_choices_only(name: str) -> None:
    published = load_settings(config_of("cifar10_10pct", "whitening")).model_dump()
    feature, projection, whitening, aggregated = name.split("_")
    read = load_settings(cell(name)).model_dump()
    method = published["distill"]["method"]
    chosen = {
        "student": {"feature": FEATURES[feature], "scaling": "none"},
        "method": method
        | {
            "projection": {"name": PROJECTIONS[projection]},
            "normalization": method["normalization"] | WHITENINGS[whitening],
        },
        "aggregated": AGGREGATED[aggregated],
    }
    assert read == published | {"arm": name, "distill": published["distill"] | chosen}


def build(settings: Settings) -> Trainer:
    """Builds a trainer as a run does, with a teacher of random weights instead of CLIP."""
    torch.manual_seed(1)  # a run sets its seed after earlier draws
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, TEACHER_WIDTH))
    teacher = Teacher(network, mean=[0.5] * 3, std=[0.5] * 3)
    torch.manual_seed(settings.seed)
    return build_trainer(settings, 10, "cpu", teacher, text=torch.ones(10, TEACHER_WIDTH))


def initial(gan: Trainer) -> dict[str, Tensor]:
    networks = {"G": gan.generator, "D": gan.discriminator, "average": gan.ema.generator}
    return {f"{n}.{k}": v for n, net in networks.items() for k, v in net.state_dict().items()}


@pytest.mark.parametrize("name", ARMS)
def test_all_cells_start_from_the_same_weights_and_train(name: str) -> None:
    """Also with whitened batches of 8 images in 12 dimensions, whose covariance is singular."""
    start = initial(build(load_settings(ARMS["none"], SMALL)))
    gan = build(load_settings(ARMS[name], SMALL))
    for key, weight in initial(gan).items():
        assert torch.equal(weight, start[key]), key
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    labels = torch.arange(4)
    batch = Batch(images, labels, labels, torch.zeros(4, dtype=torch.bool))
    losses = gan.discriminator_step(batch, labels, 0)
    assert all(value.isfinite() for value in losses.values()), losses
    assert ("aggregated_loss" in losses) == name.endswith("kept")


def test_a_whitened_batch_below_the_teachers_width_is_a_simplex() -> None:
    """As stated in configs/methods/cholesky.yaml: for any features, all inner products of the
    targets are -1 and all squared norms B - 1."""
    gan = build(load_settings(ARMS["pooled_fixed_cholesky_removed"], SMALL))
    assert gan.distillation is not None
    features = torch.randn(8, TEACHER_WIDTH) @ torch.randn(TEACHER_WIDTH, TEACHER_WIDTH)
    _, target = gan.distillation.sides(torch.zeros(8, 8), features)
    torch.testing.assert_close(target @ target.T, 8 * torch.eye(8) - 1, atol=1e-3, rtol=0)
    assert target[:, 7:].abs().max() < 1e-2


def test_iterations_that_fit_stay_below_the_given_time() -> None:
    """For a run of 20 s to start, 10 s per evaluation and 0.5 s per iteration."""
    start, evaluation, pace, every = 20.0, 10.0, 0.5, 400
    times = [(100, 90.0), (200, 140.0)]  # 40 s of warm-up, then 0.5 s per iteration
    took = start + 140.0 + evaluation
    for share in (400.0, 1000.0, 10_000.0):
        count = iterations_that_fit(times, took, share, every)
        whole = start + 40 + count * pace + (1 + count // every) * evaluation
        assert 0.7 * share < whole < 0.96 * share
    for share in (1000.0, 10_000.0):
        count = iterations_that_fit(times, took, share, math.inf, evaluations=3)
        assert 0.7 * share < start + 40 + count * pace + 3 * evaluation < 0.96 * share
    with pytest.raises(ValueError, match="set more minutes"):
        iterations_that_fit(times, took, 60.0, every)
