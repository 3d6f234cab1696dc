"""The settings of training by epochs with AdamW, for recognition and detection."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from gan_vkd.runtime.settings import (
    Above0,
    BatchSize,
    Beta,
    Count,
    LearningRate,
    LeastLearningRate,
    LoopSettings,
    Positive,
    RunSettings,
    Weight,
)

Triple = tuple[float, float, float]
EpochPrecision = Literal["auto", "float32", "bfloat16"]  # gan_vkd/runtime/precision.py


class EpochSettings(LoopSettings):
    """Settings of training by epochs with AdamW."""

    epochs: Positive = 300
    """Passes over the training images."""
    batch_size: BatchSize = 1024
    """Of one update, over all ranks."""
    accumulate: Positive = 1
    """Parts that a rank splits its share into, to save memory."""
    lr: LearningRate = 5e-4
    """Learning rate for 512 images (detection: 16), scaled by batch_size."""
    warmup_lr: LeastLearningRate = 1e-6
    """Learning rate at the start."""
    min_lr: LeastLearningRate = 1e-5
    """Learning rate at the end."""
    warmup_epochs: Count = 5
    """Epochs of linear increase."""
    cooldown_epochs: Count = 0
    """Last epochs at min_lr."""
    schedule: Literal["epochs", "updates"] = "epochs"
    """When the learning rate changes."""
    weight_decay: Weight = 0.05
    """Of the student."""
    projection_weight_decay: Weight = 0.0
    """Of what distillation trains beside it."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Of AdamW."""
    clip_norm: Above0 | None = None
    """Largest norm of the gradient; null: no limit."""
    precision: EpochPrecision = "bfloat16"
    """Of the student."""
    teacher_precision: EpochPrecision = "bfloat16"
    """Of the teachers."""

    @model_validator(mode="after")
    def _cools_down_at_the_end(self) -> "EpochSettings":
        if self.cooldown_epochs >= self.epochs:
            raise ValueError("cooldown_epochs must be fewer than epochs")
        return self


class EpochRunSettings(RunSettings):
    """Settings that every run by epochs has."""

    train: EpochSettings = Field(default_factory=EpochSettings)
    """Length, optimiser and the training loop."""

    may_change: ClassVar[tuple[str, ...]] = (
        *RunSettings.may_change, "evaluate.batch_size", "data.workers", "data.damaged",
        "data.max_megapixels",
    )  # fmt: skip

    lr_batch: ClassVar[int] = 512  # batch size that train.lr is given for, as in DeiT

    @property
    def lr(self) -> float:
        """The learning rate of this batch size (linear scaling)."""
        return self.train.lr * self.train.batch_size / self.lr_batch

    @property
    def length(self) -> str:
        return f"{self.train.epochs} epochs"

    @property
    def relief(self) -> str:
        return (
            f"batch {self.train.batch_size}: use more ranks, set a larger train.accumulate "
            "(detection: in a new run), or start a new run with a smaller train.batch_size"
        )
