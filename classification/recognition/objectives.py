"""What a student is taught: the label, a teacher's prediction, its features, its early maps.

Every method of the table is a choice of these terms (configs/objectives): plain DeiT is the label
alone; DeiT distilled adds hard or soft predictions to the distillation token; CiT has a token for
each of several teachers; DearKD adds early maps and leaves the teachers before the end; VkD adds
the orthogonal projection of all tokens' mean.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classification.recognition.network.students import Outputs
from classification.recognition.settings import ObjectiveSettings, TokenSettings
from gan_vkd.distill import METHODS
from gan_vkd.runtime import ranks


class Verdict(NamedTuple):
    """What a teacher says of B images.

    logits: (B, C). features: (B, dt), before its classifier. early: (B, d, H, W), or None.
    """

    logits: Tensor
    features: Tensor
    early: Tensor | None


def label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of (B, C) to probabilities (B, C): mixed and smoothed labels."""
    return -(targets * F.log_softmax(logits.float(), dim=1)).sum(1).mean()


def hard_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of (B, C) to the teacher's decision (DeiT, Touvron et al. 2021, equation 3)."""
    return F.cross_entropy(logits.float(), teacher.argmax(1))


def soft_loss(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)), the mean over samples.

    Equation 2 of DeiT, whose published code divides by the number of classes as well.
    """
    ours, theirs = (F.log_softmax(x.float() / temperature, dim=1) for x in (logits, teacher))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


class Aligner(nn.Module):
    """Patch tokens or a map of the student to a teacher's map, with a learnt regression.

    A depthwise 3x3 convolution, layer norm, ReLU and a linear map, as DearKD's aligner is made
    (Chen et al., CVPR 2022); the teacher's map is pooled to the student's grid.
    """

    def __init__(self, width: int, teacher_width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.map = nn.Linear(width, teacher_width)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, N, d) with N a square, or (B, d, h, w); and (B, dt, H, W) -> mean squared error."""
        if student.ndim == 3:
            side = round(student.shape[1] ** 0.5)
            student = student.mT.unflatten(2, (side, side))
        x = self.mix(student).flatten(2).mT
        x = self.map(F.relu(self.norm(x)))
        target = F.adaptive_avg_pool2d(teacher, (student.shape[2], student.shape[3])).flatten(2).mT
        return F.mse_loss(x.float(), target.float())


class Objective(nn.Module):
    """The weighted terms of the settings; what they learn (projections, aligners) is thrown away.

    Args:
        settings: which terms.
        width: ds, of the student's features.
        early_width: of its early layer, 0 for none.
        teachers: (features' width, early map's channels or 0) of each, in the tokens' order.

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
        """Samples that its feature loss needs; more than one where it relates them."""
        return max((int(getattr(x, "least_batch", 1)) for x in self.features), default=1)

    def forward(self, said: Outputs, targets: Tensor, verdicts: list[Verdict]) -> dict[str, Tensor]:
        """The weighted terms by name.

        Args:
            said: by the student of B images.
            targets: (B, C) probabilities, mixed and smoothed labels.
            verdicts: of the teachers on the same images; none in the stage without them. Then, and
                where no prediction is taught, all outputs together learn the label.
        """
        settings = self.settings
        taught = bool(verdicts) and settings.token is not None
        logits = said.logits if taught else torch.stack([said.logits, *said.distilled]).mean(0)
        losses = {"label_loss": settings.label * label_loss(logits, targets)}
        if not verdicts:
            return losses
        if settings.token is not None:
            # without a token of its own a teacher speaks to the only output (Hinton et al. 2015)
            outputs = said.distilled or [said.logits] * len(verdicts)
            terms = [
                token_loss(settings.token, ours, verdict.logits)
                for ours, verdict in zip(outputs, verdicts, strict=True)
            ]
            losses["token_loss"] = settings.token.weight * torch.stack(terms).sum()
        if settings.features is not None:
            means = said.features if settings.features.tokens == "all" else said.patches
            theirs = [verdict.features for verdict in verdicts]
            if self.least_batch > 1:  # every sample is related to every other, on whatever rank
                means, theirs = ranks.gather(means), [ranks.gather(x) for x in theirs]
            terms = [method(means, x) for method, x in zip(self.features, theirs, strict=True)]
            losses["feature_loss"] = settings.features.weight * torch.stack(terms).sum()
        if settings.early is not None:
            terms = [
                align(said.early[0], verdict.early)
                for align, verdict in zip(self.aligners, verdicts, strict=True)
            ]
            losses["early_loss"] = settings.early.weight * torch.stack(terms).sum()
        return losses


def token_loss(settings: TokenSettings, logits: Tensor, teacher: Tensor) -> Tensor:
    if settings.kind == "hard":
        return hard_loss(logits, teacher)
    return soft_loss(logits, teacher, settings.temperature)
