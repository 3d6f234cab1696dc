"""The controller of ADA's probability: on scripted scores, after a resume, on two ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gan_vkd.data.augment.ada import Controller
from gan_vkd.runtime.checkpoint import load_state
from gan_vkd.runtime.folder import RunFolder
from tests.conftest import MakeSettings
from tests.processes import on_ranks
from tests.resuming import assert_resumes_identically
from tests.test_ranks import _train_on_rank

REAL, FAKE = torch.ones(8), -torch.ones(8)


def path_of(controller: Controller, scores: list[torch.Tensor]) -> list[float]:
    """p after each update."""
    path = []
    for each in scores:
        controller.observe(each)
        path.append(controller.p.item())
    return path


def test_p_rises_to_one_in_the_given_number_of_images_and_stays() -> None:
    controller = Controller(kimg=0.256)  # eight steps of four updates on eight images
    path = path_of(controller, [REAL] * 40)
    assert path[:3] == [0, 0, 0]
    assert path[3::4] == [min(step / 8, 1) for step in range(1, 11)]
    assert path[:3] == path[0:1] * 3
    assert sum(p < 1 for p in path) == 31  # it is 1 after exactly 256 images


def test_the_published_speed_takes_500_thousand_images() -> None:
    controller = Controller()
    for _ in range(500_000 // 1000):
        controller.observe(torch.ones(1000))
    assert controller.p.item() == pytest.approx(1, abs=1e-5)


def test_p_falls_to_zero_and_stays() -> None:
    controller = Controller(p=0.5, kimg=0.256)
    assert path_of(controller, [FAKE] * 32)[3::4] == [3 / 8, 2 / 8, 1 / 8, 0, 0, 0, 0, 0]
    assert path_of(controller, [REAL] * 4)[-1] == 1 / 8


def test_signs_are_averaged_over_the_updates_in_between() -> None:
    """r_t is 0.5 over four updates, also where single ones are beyond the target."""
    controller = Controller(p=0.5, target=0.6, kimg=0.256)
    mixed = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, -1])  # a mean of 0.75
    for scores in (100 * REAL, mixed, mixed, -mixed + 0.0):
        controller.observe(scores)
    assert controller.rt.item() == pytest.approx((1 + 0.75 + 0.75 - 0.75) / 4)
    assert controller.p.item() == 0.5 - 1 / 8
    for scores in (REAL, REAL, REAL, mixed):
        controller.observe(scores)
    assert controller.rt.item() == pytest.approx(3.75 / 4)
    assert controller.p.item() == 0.5


def test_p_stays_at_the_target() -> None:
    controller = Controller(p=0.5, target=0.5, every=1, kimg=0.256)
    controller.observe(torch.tensor([3.0, 1, 1, -0.1]))
    assert controller.p.item() == 0.5


def test_a_fixed_p_is_measured_but_does_not_move() -> None:
    controller = Controller(p=0.3, kimg=float("inf"))
    path_of(controller, [REAL] * 8)
    assert controller.p.item() == pytest.approx(0.3)
    assert controller.rt.item() == 1


def test_the_state_is_resumed_between_two_changes() -> None:
    whole, first, second = (Controller(every=3, kimg=0.1) for _ in range(3))
    scores = torch.randn(11, 8, generator=torch.Generator().manual_seed(0)) + 1
    path = path_of(whole, list(scores))
    start = path_of(first, list(scores[:5]))
    second.load_state_dict(first.state_dict())
    assert start + path_of(second, list(scores[5:])) == path
    assert max(path) > 0


def test_a_resumed_run_with_ada_is_bit_identical(small: MakeSettings, tmp_path: Path) -> None:
    settings = small("augment=[{name: ada, every: 3, kimg: 0.3, target: -1}]", arm="none")
    assert_resumes_identically(settings, tmp_path)
    state = load_state(RunFolder(tmp_path / "whole").checkpoints()[-1])["trained"]["augment"]
    assert 0 < state["parts.0.controller.p"] < 1
    records = [r for r in RunFolder(tmp_path / "whole").records("metrics") if "ada_p" in r]
    assert next(r["ada_rt"] for r in records) == 0
    assert records[-1]["ada_p"] > 0


def _observe(rank: int, world: int, file: str, queue: Any) -> None:
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=world)
    controller = Controller(every=2, target=0.5, kimg=0.064)
    scores = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)) + 0.8
    path = path_of(controller, list(scores.chunk(world, 1)[rank]))
    queue.put((rank, (path, controller.rt.item())))
    torch.distributed.destroy_process_group()


def test_two_ranks_agree_with_one_process(tmp_path: Path) -> None:
    found = on_ranks(2, _observe, str(tmp_path / "two"))
    alone = on_ranks(1, _observe, str(tmp_path / "one"))
    assert found[0] == found[1]
    assert found[0] == alone[0]
    assert len(set(alone[0][0])) > 2


def test_training_on_two_ranks_equals_one_process(small: MakeSettings, tmp_path: Path) -> None:
    settings = {
        "ada": small(
            "augment=[{name: ada, every: 3, kimg: 0.1, target: -1,"
            " groups: [blit, geometric, color, filter, noise, cutout]}]",
            "regularize={r1: 0.5, r1_every: 4}", "distill.weight=1",
            arm="layernorm",
        )
    }  # fmt: skip
    alone = on_ranks(1, _train_on_rank, "", settings)[0]["ada"]["losses"]
    found = on_ranks(2, _train_on_rank, str(tmp_path / "meet"), settings)
    assert alone["ada_p"][-1] > 0.2
    for rank in (0, 1):
        for name, values in found[rank]["ada"]["losses"].items():
            assert values == pytest.approx(alone[name], rel=1e-5, abs=1e-5), name
