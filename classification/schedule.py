"""The learning rate over time."""

import torch
from timm.scheduler import CosineLRScheduler

from classification.config import EpochSettings


def make_schedule(
    optimizer: torch.optim.Optimizer, train: EpochSettings, per_epoch: int
) -> CosineLRScheduler:
    """timm's cosine with warm-up, in epochs or in updates."""
    unit = 1 if train.schedule == "epochs" else per_epoch
    return CosineLRScheduler(
        optimizer,
        t_initial=(train.epochs - train.cooldown_epochs) * unit,
        lr_min=train.min_lr,
        warmup_t=train.warmup_epochs * unit,
        warmup_lr_init=train.warmup_lr,
        t_in_epochs=train.schedule == "epochs",
    )
