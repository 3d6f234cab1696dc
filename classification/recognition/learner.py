"""A student in training: its losses and its update, as in the papers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from timm.data.mixup import Mixup, mixup_target
from timm.utils import ModelEmaV3
from torch import Tensor

from classification.epochs.update import Updates, training_only_groups
from classification.recognition.data.feed import Batch
from classification.recognition.network.layers import freeze, groups_of
from classification.recognition.network.students import Student
from classification.recognition.objectives import Objective, TeacherOutputs
from classification.recognition.settings import ClassifierSettings
from gan_vkd.distill import Teacher
from gan_vkd.runtime import ranks
from gan_vkd.runtime.precision import autocast


class Part(NamedTuple):
    """Mixed images (b, 3, R, R), targets (b, C) and rows of views (b,) or None, as in `Batch`."""

    images: Tensor
    targets: Tensor
    rows: Tensor | None


class Learner(Updates[Batch, Part]):
    """The student, its EMA, the objective, the optimiser and the learning rate schedule.

    Args:
        settings: of the run.
        student: the network that is trained.
        teachers: each read at its logits, its features and, if the objective needs it, an early
            map.
        per_epoch: updates per epoch.
        device: where all modules are.

    remembered: all teachers' logits and features, one row for each fixed view (`views.remember`);
        None: teachers are asked in every update.

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
        self.settings, self.teachers = settings, list(teachers)
        self.remembered: Tensor | None = None
        self.classes = int(student.network.num_classes)
        width, early = student.widths(settings.data.resolution)
        freeze(student, train.freeze)
        self.student = student.to(device).train()
        widths = [(t.widths[1], t.widths[2] if len(t.widths) > 2 else 0) for t in self.teachers]
        self.objective = Objective(settings.objective, width, early[0] if early else 0, widths).to(
            device
        )
        self._require_whole_batches()
        self._batch_norm = [
            buffer
            for name, buffer in student.network.named_buffers()
            if name.endswith(("running_mean", "running_var"))
        ]
        self.ema = ModelEmaV3(self.student.network, train.ema_decay) if train.ema_decay else None
        network = self.student.network
        groups = groups_of(network, train)
        groups += training_only_groups(self.objective, train.projection_weight_decay)
        ema = None if self.ema is None else self.ema.module
        modules = {"student": network, "average": ema, "objective": self.objective}
        super().__init__(settings, groups, per_epoch, modules, "objective", device, width)
        self.taught_updates = round(settings.objective.stage_one * self.total) if teachers else 0
        self.mix = make_mix(settings, self.classes)
        data = settings.data
        self._mean, self._std = (
            torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (data.mean, data.std)
        )

    def _require_whole_batches(self) -> None:
        """A loss that relates samples needs the whole batch, with enough samples, at once."""
        train, least = self.settings.train, self.objective.least_batch
        if least > 1 and (train.accumulate > 1 or train.batch_size < least):
            raise ValueError(
                f"its feature loss relates the samples of a batch: set train.accumulate=1 and a "
                f"train.batch_size of at least {least}"
            )

    def parts(self, batch: Batch, count: int) -> list[Part]:
        """Mixes images and targets, and splits them into equal parts."""
        images, targets = self.mix(batch)
        rows = [None] * count if batch.rows is None else batch.rows.chunk(count)
        return [Part(*x) for x in zip(images.chunk(count), targets.chunk(count), rows, strict=True)]

    def losses(self, part: Part, number: int) -> dict[str, Tensor]:
        taught = self.taught(part) if number < self.taught_updates else []
        with autocast(self.device, self.precision):
            return self.objective(self.student.read(part.images), part.targets, taught)

    def step(self, batch: Batch, number: int) -> dict[str, Tensor]:
        logged = super().step(batch, number)
        ranks.average(self._batch_norm)
        if self.ema is not None:
            self.ema.update(self.student.network)
        return logged

    def taught(self, part: Part) -> list[TeacherOutputs]:
        """The teachers' outputs for a part, looked up where they are remembered."""
        if self.remembered is None or part.rows is None:
            return self.teacher_outputs(part.images)
        widths = [width for teacher in self.teachers for width in teacher.widths[:2]]
        found = self.remembered[part.rows].split(widths, 1)
        return [TeacherOutputs(*x, None) for x in zip(found[::2], found[1::2], strict=True)]

    @torch.no_grad()
    def teacher_outputs(self, images: Tensor) -> list[TeacherOutputs]:
        """The teachers' outputs for the student's images (B, 3, R, R)."""
        images = (images * self._std + self._mean) * 2 - 1
        taught = []
        for teacher in self.teachers:
            with autocast(self.device, self.teacher_precision):
                logits, features, *early = teacher.read(images)
            taught.append(TeacherOutputs(logits, features, early[0] if early else None))
        return taught

    @property
    def measured(self) -> Student:
        """The student that is measured and exported: the EMA where there is one."""
        return self.student if self.ema is None else Student(self.ema.module)


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
