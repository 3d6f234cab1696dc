"""The distillation as one module: what the trainer computes, in other training loops."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gan_vkd.distill import Distiller, Layer, Reader, Teacher
from tests.conftest import MakeSettings
from tests.processes import on_ranks
from tests.test_gan import batch, build
from tests.waits import NoWaits

HALF = [0.5] * 3


def make(**options: object) -> tuple[nn.Module, Distiller]:
    """A student with features of width 6, and a distiller of a random teacher of width 10."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = nn.Sequential(nn.Conv2d(3, 10, 5), nn.BatchNorm2d(10))
    return student, Distiller(Teacher(network, mean=HALF, std=HALF), 6, **options)


def images(seed: int, count: int = 16) -> Tensor:
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("scaling", ["none", "batch", "learnt"])
def test_it_is_the_distillation_of_the_trainer(small: MakeSettings, scaling: str) -> None:
    """Losses, gradients and parameters are equal to the last bit over three updates."""
    trainer = build(small, f"distill.student.scaling={scaling}", "distill.every=1")
    theirs = trainer.distillation
    assert theirs is not None
    ours = Distiller(theirs.teacher, 8, scaling=scaling)
    ours.feature.load_state_dict(theirs.features[0].state_dict())
    ours.loss.load_state_dict(theirs.method.methods[0].state_dict())
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=0.01)
    ours.join(optimizer)
    other = torch.optim.Adam(theirs.parameters(), lr=0.01)
    seen = batch().images
    for step in range(3):
        source = torch.Generator().manual_seed(step)
        features = torch.randn(2, 8, 8, generator=source).relu().unbind()
        mine, its = (x.clone().requires_grad_() for x in (features[0], features[0]))
        loss = ours(mine, seen)
        expected = theirs([its], batch(4), seen, seen)["distill_loss"]
        assert torch.equal(loss, expected)
        for optimiser, value in ((optimizer, loss), (other, expected)):
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        theirs.method.methods[0].project.retract()
        assert torch.equal(mine.grad, its.grad)
    for name, value in ours.loss.state_dict().items():
        assert torch.equal(value, theirs.method.methods[0].state_dict()[name]), name
    for name, value in ours.feature.state_dict().items():
        assert torch.equal(value, theirs.features[0].state_dict()[name]), name


def test_a_plain_loop_lowers_the_loss_and_keeps_the_projection_orthogonal() -> None:
    student, vkd = make(scaling="batch")
    before = copy.deepcopy(vkd.teacher.state_dict())
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    vkd.join(optimizer)
    reader, losses = Reader(student, [Layer("2")]), []
    for step in range(60):
        x = images(step % 3)
        with reader:
            student(x)
        loss = vkd(*reader.take(), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[3], "the first targets are normalised by few images"
    p = vkd.loss.project.matrix()
    torch.testing.assert_close(p.T @ p, torch.eye(6), rtol=0, atol=1e-5)
    for name, value in vkd.teacher.state_dict().items():
        assert torch.equal(value, before[name]), "the teacher is frozen, its batch norm too"


def test_gradients_reach_student_and_projection_only() -> None:
    _, vkd = make()
    features, x = torch.randn(16, 6, requires_grad=True), images(0).requires_grad_()
    vkd(features, x).backward()
    assert features.grad is not None
    assert x.grad is None
    assert all(p.grad is not None for p in vkd.parameters())
    assert not any(p.requires_grad for p in vkd.teacher.parameters())


def test_the_state_is_without_the_teacher_and_restores_the_loss() -> None:
    _, vkd = make(scaling="batch", normalization="whitening")
    for step in range(3):
        vkd(torch.randn(16, 6), images(step))
    state = vkd.state_dict()
    assert not any("teacher" in name for name in state)
    _, other = make(scaling="batch", normalization="whitening")
    other.load_state_dict(state)
    features = torch.randn(16, 6)
    assert torch.equal(other.eval()(features, images(9)), vkd.eval()(features, images(9)))


def test_autocast_reaches_the_teacher_alone() -> None:
    _, vkd = make(normalization="layer_norm")
    features = torch.randn(16, 6)
    with torch.autocast("cpu", torch.bfloat16):
        loss = vkd(features.bfloat16(), images(0))
        target = vkd.teacher(images(0))
    assert loss.dtype == torch.float32
    projected = features.bfloat16().float() @ vkd.loss.project.matrix().T
    torch.testing.assert_close(loss, F.mse_loss(projected, F.layer_norm(target, (10,))))


def test_the_teacher_moves_with_the_module() -> None:
    _, vkd = make()
    vkd.to("meta")
    assert {p.device.type for p in vkd.teacher.parameters()} == {"meta"}


def test_a_fixed_projection_has_nothing_to_train() -> None:
    student, vkd = make(projection="orthogonal_fixed")
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    vkd.join(optimizer)
    assert len(optimizer.param_groups) == 1


def test_parameters_that_the_optimiser_has_stay_in_their_group() -> None:
    _, vkd = make()
    optimizer = torch.optim.SGD(vkd.parameters(), lr=0.1)
    vkd.join(optimizer)
    assert len(optimizer.param_groups) == 1
    vkd(torch.randn(16, 6), images(0)).backward()
    before = vkd.loss.project.matrix().detach().clone()
    optimizer.step()
    assert not torch.equal(vkd.loss.project.matrix(), before)


def test_a_step_does_not_wait_for_the_device() -> None:
    """In the third step, since the covariance is decomposed at powers of two."""
    _, vkd = make(scaling="batch")
    for step in range(3):
        features, x = torch.randn(16, 6, requires_grad=True), images(step)
        with NoWaits() if step == 2 else nullcontext():
            vkd(features, x).backward()


def trained(part: slice, parallel: bool) -> list[np.ndarray]:
    """The distiller's state and the student's bias after four steps on a part of each batch."""
    student, vkd = make(scaling="batch")
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    vkd.join(optimizer)
    module, loss_of = student, vkd
    if parallel:
        module, loss_of = DistributedDataParallel(student), DistributedDataParallel(vkd)
    for step in range(4):
        x = images(step)[part]
        loss = loss_of(module(x), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [value.numpy() for value in (*vkd.state_dict().values(), student[0].bias.detach())]


def _rank(rank: int, world: int, file: str, queue: torch.multiprocessing.Queue) -> None:
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=world)
    queue.put((rank, trained(slice(rank, None, world), parallel=True)))
    torch.distributed.destroy_process_group()


def test_two_ranks_train_as_one_process_on_the_whole_batch(tmp_path: object) -> None:
    found = on_ranks(2, _rank, f"{tmp_path}/store")
    for index, expected in enumerate(trained(slice(None), parallel=False)):
        for rank in range(2):
            np.testing.assert_allclose(found[rank][index], expected, rtol=1e-4, atol=1e-5)
