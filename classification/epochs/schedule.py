"""The learning rate schedule."""

import torch
from timm.scheduler import CosineLRScheduler

from classification.epochs.settings import EpochSettings


class Rate:
    """timm's cosine schedule with warm-up, stepped by epochs or by updates, times a factor.

    By epochs as in the released codes of DeiT and ViDT, which step it by the number of an epoch
    when it has ended: epoch e has the learning rate of e - 1, and the first two are equal.

    Args:
        optimizer: its groups' learning rates are set; their present ones are the highest.
        train: the schedule and its length.
        per_epoch: updates per epoch.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, train: EpochSettings, per_epoch: int
    ) -> None:
        self.optimizer, self.per_epoch, self.factor = optimizer, per_epoch, 1.0
        self.by_epoch = train.schedule == "epochs"
        unit = 1 if self.by_epoch else per_epoch
        self.cosine = CosineLRScheduler(
            optimizer,
            t_initial=(train.epochs - train.cooldown_epochs) * unit,
            lr_min=train.min_lr,
            warmup_t=train.warmup_epochs * unit,
            warmup_lr_init=train.warmup_lr,
            t_in_epochs=self.by_epoch,
        )

    def set(self, number: int) -> None:
        """Sets the learning rate of update `number`."""
        if self.by_epoch:
            self.cosine.step(max(0, number // self.per_epoch - 1))
        else:
            self.cosine.step_update(number)
        for group in self.optimizer.param_groups:
            group["lr"] *= self.factor

    @property
    def now(self) -> float:
        """The highest learning rate of a group."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)
