import math

import pytest
import scipy.spatial
import torch
import torch.nn.functional as F

from gan_vkd.distill import NORMALIZATIONS, LayerPairs, VkDLoss, retract
from gan_vkd.distill.losses import DISTANCES


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("projection", ["orthogonal", "linear"])
def test_only_student_and_projection_get_a_gradient(projection: str, normalization: str) -> None:
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
def test_the_loss_matches_a_loop(distance: str) -> None:
    torch.manual_seed(0)
    method = VkDLoss(3, 5, normalization="l2", distance=distance)
    student, teacher = torch.randn(6, 3), torch.randn(6, 5)
    p, total = method.project.matrix().detach(), 0.0
    for z, t in zip(student, teacher, strict=True):
        ours = [float(p[j] @ z) for j in range(5)]
        theirs = [float(t[j] / t.norm()) for j in range(5)]
        errors = [a - b for a, b in zip(ours, theirs, strict=True)]
        total += {
            "mse": sum(e**2 for e in errors) / 5,
            "l1": sum(abs(e) for e in errors) / 5,
            "smooth_l1": sum(e**2 / 2 if abs(e) < 1 else abs(e) - 0.5 for e in errors) / 5,
            "norm": math.hypot(*errors),
            "cosine": 1 - sum(a * b for a, b in zip(ours, theirs, strict=True)) / math.hypot(*ours),
        }[distance]
    assert float(method(student, teacher).detach()) == pytest.approx(total / 6, rel=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_distance_to_itself_is_zero_with_zero_gradient(distance: str) -> None:
    torch.manual_seed(0)
    target = torch.randn(6, 5)
    features = target.clone().requires_grad_()
    loss = DISTANCES[distance](features, target)
    loss.backward()
    assert features.grad is not None
    torch.testing.assert_close(loss, torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(features.grad, torch.zeros(6, 5), atol=1e-7, rtol=0)


def test_the_gradient_of_the_norm_does_not_depend_on_the_distance() -> None:
    far = torch.tensor([[3.0, 4.0], [0.03, 0.04], [-600.0, 800.0]], requires_grad=True)
    DISTANCES["norm"](far, torch.zeros(3, 2)).backward()
    directions = torch.tensor([[0.6, 0.8], [0.6, 0.8], [-0.6, 0.8]])
    torch.testing.assert_close(far.grad, directions / 3)


def test_the_cosine_distance_is_that_of_scipy_and_ignores_lengths() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(6, 5), torch.randn(6, 5)
    expected = sum(scipy.spatial.distance.cosine(x, y) for x, y in zip(a, b, strict=True)) / 6
    assert float(DISTANCES["cosine"](7 * a, b)) == pytest.approx(expected, rel=1e-5)


def test_half_precision_features_are_compared_in_float32() -> None:
    method = VkDLoss(4, 7, normalization="layer_norm")
    student, teacher = torch.randn(8, 4).bfloat16(), torch.randn(8, 7).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(student, teacher)
    expected = F.mse_loss(
        student.float() @ method.project.matrix().T, F.layer_norm(teacher.float(), (7,))
    )
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)


def test_training_brings_a_student_to_the_whitened_features() -> None:
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
        retract(method)
        losses.append(float(loss.detach()))
    # a student of width 4 can match four of six white directions: 2/6 of the variance remain
    assert losses[0] > 0.9
    assert losses[-1] == pytest.approx(2 / 6, abs=0.03)


def test_pairs_of_layers_are_weighted_and_independent() -> None:
    torch.manual_seed(0)
    methods = [
        VkDLoss(3, 5, normalization="layer_norm"),
        VkDLoss(4, 2, normalization="l2", distance="l1"),
    ]
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
