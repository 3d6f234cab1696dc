"""Distillation losses on tokens against slow transcriptions of their formulas."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from classification.detection.distillation import DetectionVkD, TokenMatching, standardize
from classification.detection.network.vidt import Tokens
from classification.detection.settings import DistillationSettings

SIDES = [(4, 6), (2, 3), (1, 2), (1, 1)]


def drawn(width: int, seed: int, images: int = 2, padded: bool = False) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    paddings = [torch.zeros(images, *side, dtype=torch.bool) for side in SIDES]
    if padded:
        paddings[0][:, :, 4:] = True
        paddings[1][:, :, 2:] = True
    return Tokens(
        [torch.randn(images, width, *side, generator=generator) for side in SIDES],
        paddings,
        torch.randn(images, 5, width, generator=generator),
        torch.randn(3, images, 5, width, generator=generator),
    )


def requiring(tokens: Tokens) -> Tokens:
    for x in (*tokens.patches, tokens.body, tokens.neck):
        x.requires_grad_()
    return tokens


@pytest.mark.parametrize("padding", ["left_out", "counted"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("standardized", ["both", "teacher", "none"])
def test_vkd_matches_smooth_l1_of_standardised_rows(
    standardized: Any, padded: bool, padding: Any
) -> None:
    torch.manual_seed(0)
    settings = DistillationSettings(
        patches=0.5, body=3.0, neck=2.0, standardize=standardized, padding=padding
    )
    vkd = DetectionVkD(settings, 4, 6)
    student, teacher = requiring(drawn(4, 1, padded=padded)), requiring(drawn(6, 2, padded=padded))
    losses = vkd(student, teacher)

    def term(i: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        p = vkd.projections[i].project.matrix()
        torch.testing.assert_close(p.T @ p, torch.eye(4), atol=1e-5, rtol=0)
        x, y = x.reshape(-1, 4) @ p.T, y.reshape(-1, 6)
        if standardized != "none":
            y = (y - y.mean(0)) / (y.var(0) + 1e-5).sqrt()
        if standardized == "both":
            x = (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt()
        return F.smooth_l1_loss(x, y)

    def seen(tokens: Tokens, i: int) -> torch.Tensor:
        outside = (
            tokens.paddings[i] if padding == "left_out" else torch.zeros_like(tokens.paddings[i])
        )
        return tokens.patches[i].permute(0, 2, 3, 1)[~outside]

    patches = [term(i, seen(student, i), seen(teacher, i)) for i in range(4)]
    torch.testing.assert_close(losses["patch_loss"], 0.5 * sum(patches))
    torch.testing.assert_close(losses["body_loss"], 3 * term(4, student.body, teacher.body))
    torch.testing.assert_close(losses["neck_loss"], 2 * term(5, student.neck, teacher.neck))
    sum(losses.values()).backward()
    assert student.body.grad is not None
    assert teacher.body.grad is None


@pytest.mark.parametrize(
    "projection",
    ["orthogonal_fixed", "orthogonal_static", "orthogonal_full", "cayley", "householder"],
)
def test_every_orthogonal_projection_of_the_core_may_be_chosen(projection: Any) -> None:
    torch.manual_seed(0)
    vkd = DetectionVkD(DistillationSettings(projection=projection), 4, 6)
    student, teacher = drawn(4, 1), drawn(6, 2)
    p = vkd.projections[4].project.matrix()
    torch.testing.assert_close(p.T @ p, torch.eye(4), atol=1e-5, rtol=0)
    rows = (student.body.reshape(-1, 4) @ p.T, teacher.body.reshape(-1, 6))
    x, y = ((x - x.mean(0)) / (x.var(0) + 1e-5).sqrt() for x in rows)
    torch.testing.assert_close(vkd(student, teacher)["body_loss"], F.smooth_l1_loss(x, y))


def test_padded_positions_do_not_enter_the_loss() -> None:
    vkd = DetectionVkD(DistillationSettings(), 6, 6)
    student, teacher = drawn(6, 1, padded=True), drawn(6, 2, padded=True)
    before = vkd(student, teacher)
    student.patches[0][..., 4:] = 1e3
    teacher.patches[1][..., 2:] = -1e3
    after = vkd(student, teacher)
    assert all(torch.equal(before[name], after[name]) for name in before)
    student.patches[0][..., 0, 0] += 1
    assert vkd(student, teacher)["patch_loss"] != before["patch_loss"]


@pytest.mark.parametrize(("standardized", "learns"), [("both", False), ("teacher", True)])
def test_scale_and_bias_matter_only_if_the_student_is_not_standardised(
    standardized: Any, learns: bool
) -> None:
    vkd = DetectionVkD(DistillationSettings(standardize=standardized), 4, 6)
    student, teacher = drawn(4, 1), drawn(6, 2)
    before = float(vkd(student, teacher)["body_loss"])
    with torch.no_grad():
        vkd.projections[4].scale.fill_(3.0)
        vkd.projections[4].bias.fill_(0.7)
    moved = abs(float(vkd(student, teacher)["body_loss"]) - before)
    assert (moved > 1e-2) == learns


def test_without_standardisation_it_is_smooth_l1() -> None:
    vkd = DetectionVkD(DistillationSettings(standardize="none", projection="identity"), 6, 6)
    student, teacher = drawn(6, 1), drawn(6, 2)
    torch.testing.assert_close(
        vkd(student, teacher)["neck_loss"], F.smooth_l1_loss(student.neck, teacher.neck)
    )


def test_token_matching_is_the_root_of_the_summed_distances() -> None:
    settings = DistillationSettings(method="token_matching", patches=0.5, body=3.0, neck=2.0)
    matching = TokenMatching(settings, 6, 6)
    student, teacher = drawn(6, 1), drawn(6, 2)
    total = 0.0
    for x, y in zip(student.patches, teacher.patches, strict=True):
        total += 0.5 * float((x - y).square().sum(1).sqrt().mean())
    total += 3 * float((student.body - teacher.body).square().sum(2).sqrt().mean())
    total += 2 * 3 * float((student.neck - teacher.neck).square().sum(3).sqrt().mean())
    found = matching(student, teacher)
    assert float(found["token_loss"]) == pytest.approx(total**0.5, rel=1e-5)


def test_token_matching_needs_equal_widths() -> None:
    with pytest.raises(ValueError, match="set method = vkd"):
        TokenMatching(DistillationSettings(method="token_matching"), 4, 6)


def test_standardised_rows_have_zero_mean_and_unit_variance() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 7 + 2
    inside = (torch.arange(50) % 3 > 0).float()[:, None]
    y = standardize(x, inside, inside.sum())[inside[:, 0] > 0]
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(y.var(0), torch.ones(3), atol=1e-5, rtol=0)
