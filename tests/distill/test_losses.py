from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from gan_vkd.config import DistillSettings
from gan_vkd.distill import METHODS, NORMALIZATIONS, PROJECTIONS, LayerPairs, VkDLoss
from gan_vkd.distill.losses import DISTANCES


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("projection", ["orthogonal", "linear"])
def test_a_gradient_for_student_and_projection_only(projection: str, normalization: str) -> None:
    torch.manual_seed(0)
    method = VkDLoss(4, 8, projection=projection, normalization=normalization)
    student = torch.randn(20, 4, requires_grad=True)
    teacher = torch.randn(20, 8, requires_grad=True)
    method(student, teacher).backward()
    assert student.grad is not None
    assert student.grad.any()
    assert teacher.grad is None
    assert all(p.grad is not None and p.grad.any() for p in method.parameters())


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_loss_is_its_formula_written_as_loops(distance: str) -> None:
    torch.manual_seed(0)
    method = VkDLoss(3, 5, normalization="l2", distance=distance)
    student, teacher = torch.randn(6, 3), torch.randn(6, 5)
    p, total = method.project.matrix().detach(), 0.0
    for z, t in zip(student, teacher, strict=True):
        for j in range(5):
            error = float(p[j] @ z - t[j] / t.norm())
            squared, absolute = error**2, abs(error)
            smooth = squared / 2 if absolute < 1 else absolute - 0.5
            total += {"mse": squared, "l1": absolute, "smooth_l1": smooth}[distance]
    assert float(method(student, teacher).detach()) == pytest.approx(total / 30, rel=1e-5)


def test_half_features_are_compared_in_float32() -> None:
    method = VkDLoss(4, 7, normalization="layer_norm")
    student, teacher = torch.randn(8, 4).bfloat16(), torch.randn(8, 7).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(student, teacher)
    expected = F.mse_loss(
        student.float() @ method.project.matrix().T, F.layer_norm(teacher.float(), (7,))
    )
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)


def test_a_student_that_is_trained_comes_nearer_to_whitened_features() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(400, 6) @ torch.randn(6, 6)
    network = torch.nn.Linear(6, 4)
    method = VkDLoss(4, 6, normalization="whitening")
    optimizer = torch.optim.Adam([*network.parameters(), *method.parameters()], 0.02)
    losses = []
    for _ in range(300):
        loss = method(network(teacher), teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    # of six white directions a student of four can match four: two sixths of the variance stay
    assert losses[0] > 0.9
    assert losses[-1] == pytest.approx(2 / 6, abs=0.03)


def test_pairs_of_layers_are_weighted_and_apart() -> None:
    torch.manual_seed(0)
    methods = [VkDLoss(3, 5), VkDLoss(4, 2, normalization="l2", distance="l1")]
    together = LayerPairs(methods, [0.5, 2.0])
    students = [torch.randn(6, 3, requires_grad=True), torch.randn(6, 4, requires_grad=True)]
    teachers = [torch.randn(6, 5), torch.randn(6, 2)]
    loss = together(students, teachers)
    first, second = (m(s, t) for m, s, t in zip(methods, students, teachers, strict=True))
    torch.testing.assert_close(loss, 0.5 * first + 2 * second)
    loss.backward()
    assert all(s.grad is not None and s.grad.any() for s in students)
    assert {name.split(".")[1] for name, _ in together.named_parameters()} == {"0", "1"}
    with pytest.raises(ValueError, match="zip"):
        together(students[:1], teachers)


def test_the_settings_name_what_the_core_has() -> None:
    fields = DistillSettings.model_fields
    assert set(get_args(fields["method"].annotation)) == set(METHODS)
    assert set(get_args(fields["projection"].annotation)) == set(PROJECTIONS)
    assert set(get_args(fields["normalization"].annotation)) == set(NORMALIZATIONS)
    assert set(get_args(fields["distance"].annotation)) == set(DISTANCES)
