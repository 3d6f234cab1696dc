"""A detector in training: its losses and its update, as in the papers."""

from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from classification.detection.criterion import set_losses
from classification.detection.data.feed import Batch
from classification.detection.distillation import DISTILLATIONS
from classification.detection.network.vidt import ViDT
from classification.detection.settings import DetectionSettings
from classification.epochs.update import Updates, training_only_groups
from gan_vkd.runtime.precision import autocast


class Learner(Updates[Batch, Batch]):
    """The detector, its teacher, the distillation loss, the optimiser and the schedule.

    Args:
        settings: of the run.
        detector: the network that is trained.
        teacher: the frozen teacher; None without distillation.
        per_epoch: updates per epoch.
        device: where all modules are.

    Raises:
        ValueError: widths that do not fit the method.
    """

    settings: DetectionSettings

    def __init__(
        self,
        settings: DetectionSettings,
        detector: ViDT,
        teacher: ViDT | None,
        per_epoch: int,
        device: str,
    ) -> None:
        self.settings = settings
        self.detector = detector.to(device).train()
        self.teacher = None if teacher is None else teacher.to(device).eval().requires_grad_(False)
        self.distill: nn.Module | None = None
        if settings.distill is not None and teacher is not None:
            make = DISTILLATIONS[settings.distill.method]
            self.distill = make(settings.distill, detector.width, teacher.width).to(device)
        modules = {"detector": self.detector, "distill": self.distill}
        super().__init__(
            settings, self._groups(), per_epoch, modules, "distill", device, detector.width
        )

    def _groups(self) -> list[dict[str, Any]]:
        """Parameter groups: weight decay for the whole neck and the body's matrices, as in ViDT; a
        rate of the body's own, as in DETR."""
        decay = self.settings.train.weight_decay
        exempt = ("det_token", "det_position")
        groups = param_groups_weight_decay(self.detector.body, decay, no_weight_decay_list=exempt)
        groups = [group | {"lr_scale": self.settings.train.body_rate} for group in groups]
        neck = [
            parameter
            for name, parameter in self.detector.named_parameters()
            if parameter.requires_grad and not name.startswith("body.")
        ]
        groups.append({"params": neck, "weight_decay": decay})
        beside = self.settings.train.projection_weight_decay
        return groups + training_only_groups(self.distill, beside)

    def parts(self, batch: Batch, count: int) -> list[Batch]:
        return batch.chunk(count, crop=self.settings.train.padded_to == "rank")

    def losses(self, batch: Batch, number: int) -> dict[str, Tensor]:
        settings = self.settings
        with autocast(self.device, self.precision):
            student = self.detector(batch.images, batch.padding)
        losses = set_losses(student, batch.targets, settings.criterion)
        if self.distill is None or self.teacher is None or settings.distill is None:
            return losses
        with torch.no_grad(), autocast(self.device, self.teacher_precision):
            teacher = self.teacher(batch.images, batch.padding)
        terms = self.distill(student.tokens, teacher.tokens)
        return losses | {name: settings.distill.weight * x for name, x in terms.items()}
