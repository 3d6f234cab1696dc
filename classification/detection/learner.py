"""A detector in training: what its update is made of, as the papers have it."""

from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from classification.detection.config import DetectionSettings
from classification.detection.criterion import set_losses
from classification.detection.data import Batch
from classification.detection.distillation import DISTILLATIONS
from classification.detection.vidt import ViDT
from classification.update import Updates
from gan_vkd.runtime.devices import autocast


class Learner(Updates[Batch, Batch]):
    """The detector, its teacher, what projects between them, the optimiser and the schedule.

    Args:
        settings: of the run.
        detector: what is trained.
        teacher: frozen, of the settings; None without distillation.
        per_epoch: updates.
        device: where everything lies.

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
        self.settings, self.device = settings, device
        self.detector = detector.to(device).train()
        self.teacher = None if teacher is None else teacher.to(device).eval().requires_grad_(False)
        self.distill: nn.Module | None = None
        if settings.distill is not None and teacher is not None:
            make = DISTILLATIONS[settings.distill.method]
            self.distill = make(settings.distill, detector.width, teacher.width).to(device)
        super().__init__(settings, self._groups(), per_epoch, self.distill)

    def _groups(self) -> list[dict[str, Any]]:
        """Weight decay for all of the neck and the matrices of the body, as in ViDT."""
        decay = self.settings.train.weight_decay
        spared = ("det_token", "det_position")
        groups = param_groups_weight_decay(self.detector.body, decay, no_weight_decay_list=spared)
        neck = [
            parameter
            for name, parameter in self.detector.named_parameters()
            if parameter.requires_grad and not name.startswith("body.")
        ]
        groups.append({"params": neck, "weight_decay": decay})
        thrown_away = [] if self.distill is None else list(self.distill.parameters())
        if thrown_away:
            groups.append({"params": thrown_away, "weight_decay": 0.0})
        return groups

    def parts(self, batch: Batch, count: int) -> list[Batch]:
        return batch.chunk(count)

    def losses(self, batch: Batch, number: int) -> dict[str, Tensor]:
        settings = self.settings
        with autocast(self.device, settings.train.precision):
            said = self.detector(batch.images, batch.padding)
        losses = set_losses(said, batch.targets, settings.criterion)
        if self.distill is None or self.teacher is None or settings.distill is None:
            return losses
        with torch.no_grad(), autocast(self.device, settings.train.teacher_precision):
            taught = self.teacher(batch.images, batch.padding)
        terms = self.distill(said.tokens, taught.tokens)
        return losses | {name: settings.distill.weight * x for name, x in terms.items()}

    # what a run's loop needs (gan_vkd.runtime.progress.Trained)

    def shared(self) -> dict[str, Tensor]:
        return dict(self.detector.state_dict())

    def decompositions(self) -> dict[str, Tensor]:
        """Projections' bases, by name."""
        buffers = [] if self.distill is None else self.distill.named_buffers()
        return {f"distill.{name}": x for name, x in buffers if x.is_floating_point()}

    def state(self) -> dict[str, Any]:
        return {
            "detector": self.detector.state_dict(),
            "distill": None if self.distill is None else self.distill.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.detector.load_state_dict(state["detector"])
        if self.distill is not None:
            self.distill.load_state_dict(state["distill"])
        self.optimizer.load_state_dict(state["optimizer"])
