"""A student in training: what its update is made of, as the papers have it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.data.mixup import Mixup, mixup_target
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import Tensor

from classification.config import ClassifierSettings
from classification.data import Batch
from classification.objectives import Objective, Verdict
from classification.students import Student
from classification.update import Updates
from gan_vkd.distill import Teacher
from gan_vkd.runtime import ranks
from gan_vkd.runtime.devices import autocast


class Learner(Updates[Batch, tuple[Tensor, Tensor]]):
    """The student, its average, the objective, the optimiser and the rate's schedule.

    Args:
        settings: of the run.
        student: what is trained.
        teachers: each reads its logits, its features and, where the objective asks, an early map.
        per_epoch: updates.
        device: where everything lies.

    Raises:
        ValueError: widths that do not fit the objective.
    """

    settings: ClassifierSettings

    def __init__(
        self,
        settings: ClassifierSettings,
        student: Student,
        teachers: Sequence[Teacher],
        per_epoch: int,
        device: str,
    ) -> None:
        train = settings.train
        self.settings, self.device, self.teachers = settings, device, list(teachers)
        self.classes = int(student.network.num_classes)
        width, early = student.widths(settings.data.resolution)
        self.student = student.to(device).train()
        widths = [(t.widths[1], t.widths[2] if len(t.widths) > 2 else 0) for t in self.teachers]
        self.objective = Objective(settings.objective, width, early[0] if early else 0, widths).to(
            device
        )
        self._require_rows()
        self._batch_norm = [
            buffer
            for name, buffer in student.network.named_buffers()
            if name.endswith(("running_mean", "running_var"))
        ]
        self.average = (
            ModelEmaV3(self.student.network, train.ema_decay) if train.ema_decay else None
        )
        network = self.student.network
        spared = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
        groups = param_groups_weight_decay(network, train.weight_decay, no_weight_decay_list=spared)
        thrown_away = [p for p in self.objective.parameters() if p.requires_grad]
        if thrown_away:
            groups.append({"params": thrown_away, "weight_decay": 0.0})
        super().__init__(settings, groups, per_epoch, self.objective)
        self.teaching = round(settings.objective.stage_one * self.total) if teachers else 0
        self.mix = make_mix(settings, self.classes)
        data = settings.data
        self._mean, self._std = (
            torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (data.mean, data.std)
        )

    def _require_rows(self) -> None:
        """Samples that are related to one another must be computed together."""
        train, least = self.settings.train, self.objective.least_batch
        if least > 1 and (train.accumulate > 1 or train.batch_size < least):
            raise ValueError(
                f"its feature loss relates the samples of a batch: set train.accumulate=1 and a "
                f"train.batch_size of {least} at least"
            )

    def parts(self, batch: Batch, count: int) -> list[tuple[Tensor, Tensor]]:
        """Images and targets, mixed."""
        images, targets = self.mix(batch)
        return list(zip(images.chunk(count), targets.chunk(count), strict=True))

    def losses(self, part: tuple[Tensor, Tensor], number: int) -> dict[str, Tensor]:
        images, targets = part
        verdicts = self.ask(images) if number < self.teaching else []
        with autocast(self.device, self.settings.train.precision):
            return self.objective(self.student.read(images), targets, verdicts)

    def step(self, batch: Batch, number: int) -> dict[str, Tensor]:
        told = super().step(batch, number)
        ranks.average(self._batch_norm)
        if self.average is not None:
            self.average.update(self.student.network)
        return told

    @torch.no_grad()
    def ask(self, images: Tensor) -> list[Verdict]:
        """What the teachers say of what the student sees."""
        seen = (images * self._std + self._mean) * 2 - 1
        verdicts = []
        for teacher in self.teachers:
            with autocast(self.device, self.settings.train.teacher_precision):
                logits, features, *early = teacher.read(seen)
            verdicts.append(Verdict(logits, features, early[0] if early else None))
        return verdicts

    @property
    def measured(self) -> Student:
        """What is measured and exported: the average of the weights, where one is kept."""
        return self.student if self.average is None else Student(self.average.module)

    # what a run's loop needs (gan_vkd.runtime.progress.Trained)

    def shared(self) -> dict[str, Tensor]:
        return dict(self.student.network.state_dict())

    def decompositions(self) -> dict[str, Tensor]:
        """Projections' bases and normalisers' statistics, by name."""
        buffers = self.objective.named_buffers()
        return {f"objective.{name}": x for name, x in buffers if x.is_floating_point()}

    def state(self) -> dict[str, Any]:
        return {
            "student": self.student.network.state_dict(),
            "average": self.average.module.state_dict() if self.average is not None else None,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.student.network.load_state_dict(state["student"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])


def make_mix(
    settings: ClassifierSettings, classes: int
) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """Images and labels -> images and targets (B, C): timm's Mixup and CutMix, smoothed labels."""
    augment = settings.augment
    if not augment.mixup and not augment.cutmix:
        return lambda batch: (
            batch.images,
            mixup_target(batch.labels, classes, 1.0, augment.smoothing),
        )
    mixup = Mixup(
        mixup_alpha=augment.mixup,
        cutmix_alpha=augment.cutmix,
        prob=augment.mix_probability,
        switch_prob=augment.switch_probability,
        label_smoothing=augment.smoothing,
        num_classes=classes,
    )
    return lambda batch: mixup(batch.images, batch.labels)
