"""Losses of a student: of the label, and of a teacher's prediction, features and early map.

Every method is a choice of these terms (configs/objectives): plain DeiT has the label only;
distilled DeiT adds hard or soft predictions for the distillation token; CiT has one token for each
of several teachers; DearKD adds early maps and drops the teachers before the end; VkD adds the
orthogonal projection of the mean of all tokens.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.recognition.network.students import Outputs
from classification.recognition.settings import ObjectiveSettings, TokenSettings
from gan_vkd.distill import METHODS
from gan_vkd.runtime import ranks


class TeacherOutputs(NamedTuple):
    """A teacher's outputs for B images.

    logits: (B, C). features: (B, dt), the classifier's input. early: (B, d, H, W), or None.
    """

    logits: Tensor
    features: Tensor
    early: Tensor | None


def label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C) to probabilities (B, C): mixed and smoothed labels."""
    return -(targets * F.log_softmax(logits.float(), dim=1)).sum(1).mean()


def hard_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of (B, C) to the teacher's decision (DeiT, Touvron et al. 2021, equation 3)."""
    return F.cross_entropy(logits.float(), teacher.argmax(1))


def soft_loss(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)), averaged over samples.

    Equation 2 of DeiT, whose published code divides by the number of classes as well.
    """
    ours, theirs = (F.log_softmax(x.float() / temperature, dim=1) for x in (logits, teacher))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


class Aligner(nn.Module):
    """Learnt regression of the student's patch tokens or map to a teacher's map, with its loss.

    A depthwise 3x3 convolution, layer norm, ReLU and a linear map, as in DearKD's aligner
    (Chen et al., CVPR 2022); the teacher's map is pooled to the student's grid.
    """

    def __init__(self, width: int, teacher_width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.map = nn.Linear(width, teacher_width)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean squared error. Student: (B, N, d), N a square, or (B, d, h, w); teacher:
        (B, dt, H, W)."""
        if student.ndim == 3:
            side = round(student.shape[1] ** 0.5)
            student = student.mT.unflatten(2, (side, side))
        x = self.mix(student).flatten(2).mT
        x = self.map(F.relu(self.norm(x)))
        target = F.adaptive_avg_pool2d(teacher, (student.shape[2], student.shape[3])).flatten(2).mT
        return F.mse_loss(x.float(), target.float())


class Objective(nn.Module):
    """The weighted losses of the settings; only training needs their projections and aligners.

    Args:
        settings: the terms and their weights.
        width: ds, width of the student's features.
        early_width: width of the student's early layer, 0 for none.
        teachers: (width of the features, channels of the early map or 0) of each teacher, in the
            order of the tokens.

    Raises:
        ValueError: a width that does not fit the method.
    """

    def __init__(
        self,
        settings: ObjectiveSettings,
        width: int,
        early_width: int,
        teachers: list[tuple[int, int]],
    ) -> None:
        super().__init__()
        self.settings = settings
        self.features, self.aligners = nn.ModuleList(), nn.ModuleList()
        for teacher_width, channels in teachers:
            if settings.features is not None:
                method = settings.features.method.chosen
                self.features.append(METHODS.make(method, width, teacher_width))
            if settings.early is not None:
                self.aligners.append(Aligner(early_width, channels))

    @property
    def least_batch(self) -> int:
        """The samples that its feature loss needs; more than one where it relates samples."""
        return max((int(getattr(x, "least_batch", 1)) for x in self.features), default=1)

    def forward(
        self, student: Outputs, targets: Tensor, teachers: list[TeacherOutputs]
    ) -> dict[str, Tensor]:
        """The weighted terms by name.

        Args:
            student: the student's outputs for B images.
            targets: (B, C) probabilities, mixed and smoothed labels.
            teachers: the teachers' outputs for the same images; empty in the stage without them.
                Then, and without a token term, the mean of all heads is trained on the label.
        """
        settings = self.settings
        taught = bool(teachers) and settings.token is not None
        logits = (
            student.logits if taught else torch.stack([student.logits, *student.distilled]).mean(0)
        )
        losses = {"label_loss": settings.label * label_loss(logits, targets)}
        if not teachers:
            return losses
        if settings.token is not None:
            # without a distillation token the only output is trained (Hinton et al. 2015)
            outputs = student.distilled or [student.logits] * len(teachers)
            terms = [
                token_loss(settings.token, ours, teacher.logits)
                for ours, teacher in zip(outputs, teachers, strict=True)
            ]
            losses["token_loss"] = settings.token.weight * torch.stack(terms).sum()
        if settings.features is not None:
            means = student.features if settings.features.tokens == "all" else student.patches
            theirs = [teacher.features for teacher in teachers]
            if self.least_batch > 1:  # the loss relates the samples of all ranks
                means, theirs = ranks.gather(means), [ranks.gather(x) for x in theirs]
            terms = [method(means, x) for method, x in zip(self.features, theirs, strict=True)]
            losses["feature_loss"] = settings.features.weight * torch.stack(terms).sum()
        if settings.early is not None:
            terms = [
                align(student.early[0], teacher.early)
                for align, teacher in zip(self.aligners, teachers, strict=True)
            ]
            losses["early_loss"] = settings.early.weight * torch.stack(terms).sum()
        return losses


def token_loss(settings: TokenSettings, logits: Tensor, teacher: Tensor) -> Tensor:
    if settings.kind == "hard":
        return hard_loss(logits, teacher)
    return soft_loss(logits, teacher, settings.temperature)
