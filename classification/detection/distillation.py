"""Distillation losses of a detector: [PATCH] and [DET] tokens are matched one by one.

The teacher is a ViDT with the same number of [DET] tokens; it gets the same padded images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.detection.network.vidt import Tokens
from classification.detection.settings import DistillationSettings
from gan_vkd.distill import PROJECTIONS
from gan_vkd.distill.precision import at_least_float32
from gan_vkd.runtime import ranks

SCALES = 4


def rows(tokens: Tokens) -> tuple[list[Tensor], Tensor, Tensor]:
    """Patches of each scale (B h w, d), body (B Q, d) and neck (K B Q, d), one row per token."""
    patches = [x.permute(0, 2, 3, 1).flatten(0, 2) for x in tokens.patches]
    return patches, tokens.body.flatten(0, 1), tokens.neck.flatten(0, 2)


def standardize(x: Tensor, inside: Tensor, count: Tensor) -> Tensor:
    """Normalises rows (N, d) to zero mean and unit variance per channel.

    Differentiable. Statistics are over the rows of all ranks whose `inside` (N, 1) is 1, not 0;
    `count` is the number of these rows. The other rows become zero.
    """
    mean = ranks.total((x * inside).sum(0)) / count
    centred = (x - mean) * inside
    variance = ranks.total(centred.square().sum(0)) / (count - 1).clamp_min(1)
    return centred / (variance + 1e-5).sqrt()


class ScaledProjection(nn.Module):
    """A projection of gan_vkd.distill, then a learnt scale and bias for each channel."""

    def __init__(self, name: str, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.project = PROJECTIONS.make(name, student_width, teacher_width)
        self.scale = nn.Parameter(torch.ones(teacher_width))
        self.bias = nn.Parameter(torch.zeros(teacher_width))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x) * self.scale + self.bias


class DetectionVkD(nn.Module):
    """Smooth L1 between projected tokens and the teacher's, standardised over the batch.

    Miles, Elezi and Deng, CVPR 2024, section 4.2. There is one projection for each scale of the
    patches, one for the body's and one for the neck's [DET] tokens; the terms are summed. Padded
    patches are counted or left out by the settings. Where the student is standardised too, as
    published, a projection's scale and bias have no effect; with `standardize = teacher` they are
    fitted to the teacher's.
    """

    def __init__(
        self, settings: DistillationSettings, student_width: int, teacher_width: int
    ) -> None:
        super().__init__()
        self.settings = settings
        self.projections = nn.ModuleList(
            ScaledProjection(settings.projection, student_width, teacher_width)
            for _ in range(SCALES + 2)
        )

    def forward(self, student: Tokens, teacher: Tokens) -> dict[str, Tensor]:
        """The weighted terms by name: patches, body, neck."""
        ours, theirs = rows(student), rows(teacher)
        inside = [
            None if self.settings.padding == "counted" else (~p).flatten()[:, None].float()
            for p in student.paddings
        ]
        *of_patches, of_body, of_neck = self.projections
        patches = [
            self._term(project, x, y, mask)
            for project, x, y, mask in zip(of_patches, ours[0], theirs[0], inside, strict=True)
        ]
        weights = self.settings
        return {
            "patch_loss": weights.patches * torch.stack(patches).sum(),
            "body_loss": weights.body * self._term(of_body, ours[1], theirs[1]),
            "neck_loss": weights.neck * self._term(of_neck, ours[2], theirs[2]),
        }

    def _term(
        self, project: nn.Module, student: Tensor, teacher: Tensor, inside: Tensor | None = None
    ) -> Tensor:
        inside = torch.ones_like(student[:, :1]).float() if inside is None else inside
        count = ranks.total(inside.sum())
        x = at_least_float32(project(at_least_float32(student)))
        y = teacher.detach().to(x.dtype)
        width = y.shape[1]
        if self.settings.standardize == "both":  # together, to save communication
            x, y = standardize(torch.cat([x, y], 1), inside, count).split(width, 1)
        elif self.settings.standardize == "teacher":
            y = standardize(y, inside, count)
        distance = F.smooth_l1_loss(x * inside, y * inside, reduction="sum")
        return distance / (count / ranks.world() * width).clamp_min(1)


class TokenMatching(nn.Module):
    """ViDT's own distillation: the root of the summed mean distances (equation 4 of its paper).

    The neck's term is summed over the predictors.

    Raises:
        ValueError: unequal widths.
    """

    def __init__(
        self, settings: DistillationSettings, student_width: int, teacher_width: int
    ) -> None:
        super().__init__()
        if student_width != teacher_width:
            raise ValueError(
                f"token matching needs equal widths, got student {student_width}, teacher "
                f"{teacher_width}: set method = vkd"
            )
        self.settings = settings

    def forward(self, student: Tokens, teacher: Tokens) -> dict[str, Tensor]:
        """The weighted loss, by name."""
        ours, theirs = rows(student), rows(teacher)
        patches = [_distance(x, y) for x, y in zip(ours[0], theirs[0], strict=True)]
        terms = [
            self.settings.patches * torch.stack(patches).sum(),
            self.settings.body * _distance(ours[1], theirs[1]),
            self.settings.neck * _distance(ours[2], theirs[2]) * len(student.neck),
        ]
        return {"token_loss": ranks.mean(torch.stack(terms).sum()).clamp_min(1e-12).sqrt()}


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean Euclidean distance between rows (N, d)."""
    return (at_least_float32(student) - teacher.detach()).norm(dim=1).mean()


DISTILLATIONS: dict[str, type[DetectionVkD] | type[TokenMatching]] = {
    "vkd": DetectionVkD,
    "token_matching": TokenMatching,
}
