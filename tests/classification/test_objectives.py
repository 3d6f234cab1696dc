"""Each term of the objective against a slow transcription of its formula."""

import math

import pytest
import torch
from torch import Tensor

from classification.recognition.network.students import Outputs
from classification.recognition.objectives import (
    Aligner,
    Objective,
    TeacherOutputs,
    hard_loss,
    label_loss,
    soft_loss,
)
from classification.recognition.settings import ObjectiveSettings

B, C, DS, DT = 4, 5, 6, 9


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    exponentials = [math.exp(x / temperature) for x in row]
    return [e / sum(exponentials) for e in exponentials]


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    return torch.randn(B, C, dtype=torch.float64), torch.randn(B, C, dtype=torch.float64)


def test_the_label_loss_matches_its_formula(logits):
    ours, targets = logits[0], logits[1].softmax(1)
    slow = 0.0
    for row, target in zip(ours.tolist(), targets.tolist(), strict=True):
        for p, t in zip(softmax(row), target, strict=True):
            slow -= t * math.log(p) / B
    assert float(label_loss(ours, targets)) == pytest.approx(slow, abs=1e-6)


def test_the_hard_loss_matches_its_formula(logits):
    slow = 0.0
    for row, theirs in zip(logits[0].tolist(), logits[1].tolist(), strict=True):
        slow -= math.log(softmax(row)[theirs.index(max(theirs))]) / B
    assert float(hard_loss(*logits)) == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_soft_loss_matches_its_formula(logits, temperature):
    slow = 0.0
    for row, theirs in zip(logits[0].tolist(), logits[1].tolist(), strict=True):
        p, q = softmax(row, temperature), softmax(theirs, temperature)
        for i in range(C):
            slow += temperature**2 * q[i] * (math.log(q[i]) - math.log(p[i])) / B
    assert float(soft_loss(*logits, temperature)) == pytest.approx(slow, abs=1e-6)


def test_the_aligner_matches_its_formula():
    align = Aligner(DS, DT).requires_grad_(False)
    tokens, target = torch.randn(B, 4, DS), torch.randn(B, DT, 4, 4)
    grid = tokens.view(B, 2, 2, DS).permute(0, 3, 1, 2)
    slow = 0.0
    for b in range(B):
        for y in range(2):
            for x in range(2):
                mixed = []
                for c in range(DS):
                    total = float(align.mix.bias[c])
                    for i in range(3):
                        for j in range(3):
                            if 0 <= y + i - 1 < 2 and 0 <= x + j - 1 < 2:
                                weight = align.mix.weight[c, 0, i, j]
                                total += float(weight * grid[b, c, y + i - 1, x + j - 1])
                    mixed.append(total)
                z = torch.tensor(mixed)
                z = (z - z.mean()) / (z.var(correction=0) + align.norm.eps).sqrt()
                out = align.map.weight @ z.clamp_min(0) + align.map.bias
                block = target[b, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((1, 2))
                slow += float((out - block).square().sum()) / (B * 4 * DT)
    assert float(align(tokens, target)) == pytest.approx(slow, abs=1e-5)


def random_outputs(tokens: int = 1) -> Outputs:
    distilled = [torch.randn(B, C, requires_grad=True) for _ in range(tokens)]
    return Outputs(
        torch.randn(B, C, requires_grad=True), distilled,
        torch.randn(B, DS, requires_grad=True), torch.randn(B, DS, requires_grad=True),
        [torch.randn(B, 4, DS, requires_grad=True)],
    )  # fmt: skip


def random_teacher_outputs() -> TeacherOutputs:
    return TeacherOutputs(torch.randn(B, C), torch.randn(B, DT), torch.randn(B, DT, 4, 4))


@pytest.mark.parametrize("tokens", ["all", "patches"])
def test_vkd_matches_smooth_l1_to_the_layer_normed_teacher(tokens: str) -> None:
    settings = ObjectiveSettings(
        label=0.9, token={"kind": "soft", "weight": 2.0, "temperature": 3.0},
        features={"weight": 3.0, "tokens": tokens},
    )  # fmt: skip
    objective = Objective(settings, DS, 0, [(DT, 0)])
    ours, theirs, targets = random_outputs(), random_teacher_outputs(), torch.randn(B, C).softmax(1)
    losses = objective(ours, targets, [theirs])
    p = objective.features[0].project.matrix().detach()
    torch.testing.assert_close(p.T @ p, torch.eye(DS), atol=1e-5, rtol=0)
    slow = 0.0
    means = ours.features if tokens == "all" else ours.patches
    for z, t in zip(means.tolist(), theirs.features.tolist(), strict=True):
        mean = sum(t) / DT
        deviation = math.sqrt(sum((x - mean) ** 2 for x in t) / DT + 1e-5)
        for i in range(DT):
            difference = abs(
                sum(float(p[i, j]) * z[j] for j in range(DS)) - (t[i] - mean) / deviation
            )
            slow += (difference**2 / 2 if difference < 1 else difference - 0.5) / (B * DT)
    assert losses["feature_loss"].item() == pytest.approx(3 * slow, abs=1e-5)
    token = 2 * soft_loss(ours.distilled[0], theirs.logits, 3.0)
    torch.testing.assert_close(losses["token_loss"], token)
    torch.testing.assert_close(losses["label_loss"], 0.9 * label_loss(ours.logits, targets))


def test_each_teacher_has_its_own_token_projection_and_aligner():
    settings = ObjectiveSettings(
        token={"kind": "soft", "weight": 1.0}, features={"weight": 3.0},
        early={"teacher": {"layer": "layer1"}, "weight": 1.5},
    )  # fmt: skip
    objective = Objective(settings, DS, DS, [(DT, DT), (DT + 2, DT + 1)])
    ours, first, second = random_outputs(2), random_teacher_outputs(), random_teacher_outputs()
    second = second._replace(features=torch.randn(B, DT + 2), early=torch.randn(B, DT + 1, 4, 4))
    both = [first, second]
    losses = objective(ours, torch.full((B, C), 1 / C), both)
    tokens = soft_loss(ours.distilled[0], first.logits) + soft_loss(
        ours.distilled[1], second.logits
    )
    torch.testing.assert_close(losses["token_loss"], tokens)
    terms = [f(ours.features, v.features) for f, v in zip(objective.features, both, strict=True)]
    torch.testing.assert_close(losses["feature_loss"], 3 * (terms[0] + terms[1]))
    terms = [a(ours.early[0], v.early) for a, v in zip(objective.aligners, both, strict=True)]
    torch.testing.assert_close(losses["early_loss"], 1.5 * (terms[0] + terms[1]))


def test_without_a_distillation_token_the_class_output_learns_the_teacher():
    objective = Objective(
        ObjectiveSettings(token={"kind": "hard", "weight": 1.0}), DS, 0, [(DT, 0)]
    )
    ours, theirs = random_outputs(0), random_teacher_outputs()
    losses = objective(ours, torch.full((B, C), 1 / C), [theirs])
    torch.testing.assert_close(losses["token_loss"], hard_loss(ours.logits, theirs.logits))


def test_without_teachers_the_mean_output_learns_the_label():
    objective = Objective(
        ObjectiveSettings(token={"kind": "hard", "weight": 1.0}), DS, 0, [(DT, 0)]
    )
    ours, targets = random_outputs(), torch.full((B, C), 1 / C)
    losses = objective(ours, targets, [])
    mean = (ours.logits + ours.distilled[0]) / 2
    assert list(losses) == ["label_loss"]
    torch.testing.assert_close(losses["label_loss"], label_loss(mean, targets))


def test_every_term_has_a_gradient_for_the_student():
    settings = ObjectiveSettings(
        token={"kind": "soft"}, features={}, early={"teacher": {"layer": "layer1"}}
    )
    objective, ours = Objective(settings, DS, DS, [(DT, DT)]), random_outputs()
    losses = objective(ours, torch.full((B, C), 1 / C), [random_teacher_outputs()])
    torch.stack(list(losses.values())).sum().backward()
    for output in (ours.logits, ours.distilled[0], ours.features, ours.early[0]):
        assert output.grad is not None
        assert output.grad.abs().sum() > 0
