"""The methods that VkD is compared with, against loops over their formulas."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gan_vkd.distill import METHODS
from gan_vkd.distill.losses import Aggregated
from gan_vkd.distill.projection import random_frame

DS, DT, B = 4, 6, 8
TEXT = torch.randn(5, DT, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
RELATIONAL = ["pkd", "spkd", "rkd"]


def make(name: str, ds: int = DS, dt: int = DT) -> nn.Module:
    torch.manual_seed(0)
    options = {"text": TEXT} if name == "kd_dlgm" else {}
    return METHODS[name](ds, dt, **options).double()


def features(seed: int = 0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    student = torch.randn(B, DS, generator=source, dtype=torch.float64)
    return student, torch.randn(B, DT, generator=source, dtype=torch.float64) + 0.5


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def huber(x: float) -> float:
    return x * x / 2 if abs(x) <= 1 else abs(x) - 0.5


def fitnets(method: nn.Module, student: Tensor, teacher: Tensor) -> float:
    w, bias, total = method.regress.weight.detach(), method.regress.bias.detach(), 0.0
    for z, t in zip(student, teacher, strict=True):
        for j in range(DT):
            total += float(w[j] @ z + bias[j] - t[j]) ** 2
    return total / (B * DT)


def pkd(method: nn.Module, student: Tensor, teacher: Tensor) -> float:
    return sum(divergences(student, teacher, itself=False)) / B


def divergences(student: Tensor, teacher: Tensor, itself: bool) -> list[float]:
    """Returns PKD's divergence for each sample; itself: include the sample in its probabilities."""
    found = []
    for j in range(B):
        conditional = []
        for z in (teacher, student):
            k = {i: (cosine(z[i], z[j]) + 1) / 2 for i in range(B) if itself or i != j}
            conditional.append({i: value / sum(k.values()) for i, value in k.items()})
        p, q = conditional
        found.append(sum(p[i] * math.log(p[i] / q[i]) for i in p))
    return found


def spkd(method: nn.Module, student: Tensor, teacher: Tensor) -> float:
    rows = []
    for z in (student, teacher):
        products = [[float(z[i] @ z[j]) for j in range(B)] for i in range(B)]
        rows.append([[x / math.hypot(*row) for x in row] for row in products])
    return sum((rows[0][i][j] - rows[1][i][j]) ** 2 for i in range(B) for j in range(B)) / B**2


def rkd(method: nn.Module, student: Tensor, teacher: Tensor) -> float:
    distances, angles = [], []
    for z in (student, teacher):
        d = {(i, j): float((z[i] - z[j]).norm()) for i in range(B) for j in range(i)}
        mean = sum(d.values()) / len(d)
        distances.append({pair: value / mean for pair, value in d.items()})
        angles.append(
            {
                (i, j, k): cosine(z[i] - z[j], z[k] - z[j]) if j not in (i, k) else 0.0
                for i in range(B)
                for j in range(B)
                for k in range(B)
            }
        )
    distance = sum(huber(distances[0][p] - distances[1][p]) for p in distances[0])
    angle = sum(huber(angles[0][t] - angles[1][t]) for t in angles[0])
    return 25 * distance / len(distances[0]) + 50 * angle / B**3


def vicreg(method: nn.Module, student: Tensor, teacher: Tensor) -> float:
    z = torch.stack([method.project.linear.weight @ s for s in student]).detach()
    invariance = variance = covariance = 0.0
    cov = [[0.0] * DT for _ in range(DT)]
    for j in range(DT):
        t = teacher[:, j]
        t = (t - t.mean()) / (t.var(unbiased=False) + 1e-5).sqrt()
        invariance += sum(float(z[i, j] - t[i]) ** 2 for i in range(B)) / (B * DT)
        for k in range(DT):
            a, b = z[:, j] - z[:, j].mean(), z[:, k] - z[:, k].mean()
            cov[j][k] = sum(float(a[i] * b[i]) for i in range(B)) / (B - 1)
        variance += max(0.0, 1 - math.sqrt(cov[j][j] + 1e-4)) / DT
    covariance = sum(cov[j][k] ** 2 for j in range(DT) for k in range(DT) if j != k) / DT
    return 25 * invariance + 25 * variance + covariance


def kd_dlgm(method: nn.Module, student: Tensor, teacher: Tensor) -> float:
    with torch.no_grad():
        ours = torch.stack([method.head(s[None])[0] for s in student])
    half = B // 2
    fake, real = range(half), range(half, B)
    aggregated = 0.0
    for anchors in (fake, real):
        for side in (fake, real):
            for i, j in zip(side, anchors, strict=True):
                aggregated += float((ours[i] - teacher[j]).norm()) / half

    def similarities(z: Tensor) -> Tensor:
        row = torch.stack([z @ t for t in TEXT])
        return row / row.norm()

    correlated = sum(
        float((similarities(ours[i]) - similarities(teacher[i])).square().sum()) for i in range(B)
    )
    return aggregated + correlated


FORMULAS: dict[str, Callable[[nn.Module, Tensor, Tensor], float]] = {
    "fitnets": fitnets,
    "pkd": pkd,
    "spkd": spkd,
    "rkd": rkd,
    "vicreg": vicreg,
    "kd_dlgm": kd_dlgm,
}


def test_every_method_but_vkd_has_a_formula_here() -> None:
    assert FORMULAS.keys() | {"vkd"} == METHODS.keys()


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_matches_its_formula(name: str, seed: int) -> None:
    method, (student, teacher) = make(name), features(seed)
    found = float(method(student, teacher).detach())
    method.eval()  # freezes the head's power iteration
    assert found == pytest.approx(FORMULAS[name](method, student, teacher), rel=1e-6)


def test_the_code_form_of_pkd_is_the_mean_over_all_pairs() -> None:
    method, (student, teacher) = METHODS["pkd"](DS, DT, form="code"), features()
    expected = sum(divergences(student, teacher, itself=True)) / B**2
    assert float(method(student, teacher)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("spectral", [True, False])
def test_the_head_of_kd_dlgm_is_spectrally_normalised_by_default(spectral: bool) -> None:
    options = {} if spectral else {"spectral": False}
    method = METHODS["kd_dlgm"](DS, DT, text=TEXT, **options)
    norms = [float(torch.linalg.matrix_norm(x.weight.detach(), 2)) for x in method.head.layers]
    assert (norms == pytest.approx([1, 1], rel=0.02)) == spectral


def test_the_aggregated_term_compares_each_half_with_both_halves_of_the_teacher() -> None:
    """For student = teacher, the distance between the teacher's two halves remains."""
    _, teacher = features()
    fake, real = teacher.chunk(2)
    apart = float((fake - real).norm(dim=1).mean())
    aggregated = Aggregated()
    assert float(aggregated(teacher, teacher)) == pytest.approx(2 * apart)
    assert float(aggregated(torch.cat([real, fake]), teacher)) == pytest.approx(2 * apart)
    assert float(aggregated(torch.cat([real, real]), teacher)) == pytest.approx(2 * apart)
    further = torch.cat([fake, real + 3 * (real - fake)])  # at four and three times the distance
    assert float(aggregated(further, teacher)) == pytest.approx((1 + 4 + 3) * apart)
    assert not list(aggregated.parameters())


def test_the_aggregated_term_has_a_zero_gradient_at_distance_zero() -> None:
    student = torch.ones(B, DT, requires_grad=True)
    loss = Aggregated()(student, torch.ones(B, DT))
    loss.backward()
    assert float(loss.detach()) == 0
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("name", FORMULAS)
def test_only_student_and_parameters_get_a_gradient(name: str) -> None:
    method, (student, teacher) = make(name), features()
    student.requires_grad_()
    teacher.requires_grad_()
    method(student, teacher).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.any(dim=1).all()
    assert teacher.grad is None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("name", FORMULAS)
def test_gradcheck(name: str) -> None:
    method, (student, teacher) = make(name).eval(), features()
    if name == "vicreg":
        method.normalize.fit([teacher])
    assert torch.autograd.gradcheck(lambda z: method(z, teacher), student.requires_grad_())


@pytest.mark.parametrize("name", RELATIONAL)
def test_relational_losses_are_invariant_to_rotation_and_scale(name: str) -> None:
    method, (student, teacher) = make(name), features()
    assert not list(method.parameters())
    wider = random_frame(9, DS).double()
    loss = method(student, teacher)
    torch.testing.assert_close(method(3 * student @ wider.T, teacher), loss, rtol=1e-6, atol=0)
    turned = teacher @ random_frame(DT, DT).double()
    torch.testing.assert_close(method(student, turned), loss, rtol=1e-6, atol=0)
    assert float(method(teacher @ random_frame(7, DT).double().T, teacher)) < 1e-9


@pytest.mark.parametrize("name", RELATIONAL)
def test_relational_losses_are_invariant_to_the_order_of_the_batch(name: str) -> None:
    method, (student, teacher) = make(name), features()
    order = torch.randperm(B)
    loss = method(student[order], teacher[order])
    torch.testing.assert_close(loss, method(student, teacher))


def test_rkd_is_invariant_to_translation() -> None:
    method, (student, teacher) = make("rkd"), features()
    torch.testing.assert_close(method(student + 7, teacher), method(student, teacher))


@pytest.mark.parametrize("name", FORMULAS)
def test_equal_and_zero_features_give_finite_losses_and_gradients(name: str) -> None:
    """As with dead units in the discriminator or a collapsed generator."""
    for student in (torch.zeros(B, DS), torch.ones(B, DS)):
        for teacher in (torch.zeros(B, DT), torch.ones(B, DT)):
            method = make(name).float()
            leaf = student.clone().requires_grad_()
            loss = method(leaf, teacher)
            loss.backward()
            assert loss.isfinite()
            assert leaf.grad is not None
            assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_methods_compute_in_float32_under_autocast_and_in_half_models(name: str) -> None:
    student, teacher = (x.float() for x in features())
    method = make(name).float()
    expected = method(student, teacher).detach()
    assert expected.dtype == torch.float32
    fresh = make(name).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fresh(student, teacher)
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=0)
    halved = make(name).float().half()
    found = halved(student.half(), teacher.half())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.detach(), expected, rtol=2e-2, atol=0)


@pytest.mark.parametrize("name", FORMULAS)
def test_gradient_descent_lowers_the_loss(name: str) -> None:
    method, (student, teacher) = make(name), features()
    student.requires_grad_()
    optimizer = torch.optim.Adam([student, *method.parameters()], 1e-2)
    losses = []
    for _ in range(100):
        loss = method(student, teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_texts_of_another_width_or_a_single_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(5, 6\) do not fit: .* width 7"):
        METHODS["kd_dlgm"](DS, 7, text=TEXT)
    with pytest.raises(ValueError, match="two or more"):
        METHODS["kd_dlgm"](DS, DT, text=TEXT[:1])
