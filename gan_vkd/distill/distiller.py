"""The distillation as one module, for a training loop of somebody else."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gan_vkd.distill.losses import VkDLoss
from gan_vkd.distill.projection import retract
from gan_vkd.distill.student import StudentFeature
from gan_vkd.distill.teacher import Teacher


class Distiller(nn.Module):
    """A teacher, the scaling of the student's features, and the loss between them.

        vkd = Distiller(teacher, 256, scaling="batch")
        vkd.join(optimizer)
        reader = Reader(student, [Layer("features")])
        ...
        with reader:
            logits = student(images)
        loss = task_loss(logits) + weight * vkd(*reader.take(), images)

    The teacher is frozen and runs without a gradient, under the caller's autocast; everything else
    is in float32 or better. The teacher is moved with the module, but is no part of its state,
    parameters or `modules()`. With several ranks, wrap the module in DistributedDataParallel, which
    averages the gradients of its parameters; its batch statistics are those of all ranks.

    Args:
        teacher: gives the targets.
        student_width: ds, the width of the student's features.
        feature, scaling, positions: as in `StudentFeature`.
        projection, normalization, distance: as in `VkDLoss`.
    """

    def __init__(
        self,
        teacher: Teacher,
        student_width: int,
        *,
        feature: str = "pooled",
        scaling: str = "none",
        positions: int = 1,
        **loss: Any,
    ) -> None:
        super().__init__()
        self._teacher = [teacher]  # in a list, so that it is not registered as a submodule
        self.feature = StudentFeature(
            student_width, teacher.width, feature=feature, scaling=scaling, positions=positions
        )
        self.loss = VkDLoss(self.feature.width, teacher.width, **loss)

    @property
    def teacher(self) -> Teacher:
        """The frozen teacher."""
        return self._teacher[0]

    def join(self, optimizer: Optimizer) -> None:
        """Gives the optimiser the parameters, and retracts the projection after each of its steps.

        Parameters that the optimiser has already stay in their group. A learning rate schedule is
        made afterwards, as it counts the groups.
        """
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        new = [p for p in self.parameters() if id(p) not in known]
        if new:
            optimizer.add_param_group({"params": new})
        optimizer.register_step_post_hook(lambda *step: retract(self))

    def forward(self, features: Tensor, images: Tensor) -> Tensor:
        """The student's features (B, ds) of images (B, C, H, W) in [-1, 1] -> a scalar.

        The images should be those that the student saw, augmentation included. Gradients reach the
        features and the module's parameters, not the images.
        """
        with torch.no_grad():
            target = self.teacher(images)
        return self.loss(self.feature(features)[1], target)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Distiller":
        self.teacher._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
