"""One update of a student that is trained by epochs, for any task."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from classification.epochs.items import seed_generators
from classification.epochs.schedule import Rate
from classification.epochs.settings import EpochRunSettings
from gan_vkd.distill import retract
from gan_vkd.runtime import ranks
from gan_vkd.runtime.optimizers import load_optimizer
from gan_vkd.runtime.precision import resolve

Given = TypeVar("Given")  # a batch as the feed returns it
Part = TypeVar("Part")  # the part of a batch that is computed at a time


def training_only_groups(module: nn.Module | None, decay: float) -> list[dict[str, Any]]:
    """The optimiser's groups of a module that only training needs.

    Weight decay spares biases and gains. It has no effect on an OrthogonalProjection, whose
    parameter is zero before every step.
    """
    if module is None or not any(p.requires_grad for p in module.parameters()):
        return []
    if decay:
        groups = param_groups_weight_decay(module, decay)
        return [group for group in groups if group["params"]]
    learnt = [p for p in module.parameters() if p.requires_grad]
    return [{"params": learnt, "weight_decay": 0.0}]


class Updates(Generic[Given, Part]):
    """The optimiser, its schedule and the update that all students have in common.

    Args:
        settings: of the run.
        groups: parameter groups of the optimiser.
        per_epoch: updates per epoch.
        modules: the modules in a checkpoint, by name; the network comes first.
        training_only: name of the module that only training needs (the distillation loss), whose
            buffers are monitored.
        device: of all modules.
        width: of the student, to choose the precision `auto` by.

    precision, teacher_precision: what those of the settings stand for on the device.
    """

    settings: EpochRunSettings

    def __init__(
        self,
        settings: EpochRunSettings,
        groups: list[dict[str, Any]],
        per_epoch: int,
        modules: Mapping[str, nn.Module | None],
        training_only: str,
        device: str,
        width: int,
    ) -> None:
        self.settings, self.per_epoch = settings, per_epoch
        self.device, self.width = device, width
        self._set_precision()
        self.modules = {name: module for name, module in modules.items() if module is not None}
        self.training_only = training_only
        self.total = per_epoch * settings.train.epochs
        self.optimizer = torch.optim.AdamW(groups, settings.lr, settings.train.betas)
        self.rate = Rate(self.optimizer, settings.train, per_epoch)

    def _set_precision(self, earlier: str | None = None, teacher: str | None = None) -> None:
        """earlier, teacher: those of the checkpoint that is continued."""
        train, device, width = self.settings.train, self.device, self.width
        self.precision = resolve(train.precision, device, width, earlier)
        self.teacher_precision = resolve(train.teacher_precision, device, width, teacher)

    def parts(self, batch: Given, count: int) -> Sequence[Part]:
        """This rank's images of an update, in equal parts."""
        raise NotImplementedError

    def losses(self, part: Part, number: int) -> dict[str, Tensor]:
        """The weighted terms by name, means over the part."""
        raise NotImplementedError

    def step(self, batch: Given, number: int) -> dict[str, Tensor]:
        """Performs update `number`; returns its mean losses and the gradient norm before clipping.

        Dropout and the mixing of images are a function of the seed, the update and the rank.
        """
        train, seed = self.settings.train, self.settings.seed
        self.rate.set(number)
        seed_generators(seed, number, ranks.rank(), "mixing")
        logged: dict[str, Tensor] = {}
        for i, part in enumerate(self.parts(batch, train.accumulate)):
            seed_generators(seed, number, ranks.rank(), "dropping", i)
            losses = {k: x / train.accumulate for k, x in self.losses(part, number).items()}
            torch.stack(list(losses.values())).sum().backward()
            for name, loss in losses.items():
                logged[name] = logged.get(name, 0) + loss.detach()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        ranks.average_gradients(trained)
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if train.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(trained, train.clip_norm, norm)
        self.optimizer.step()
        retract(self.modules.get(self.training_only))
        self.optimizer.zero_grad()
        return logged | {"gradient_norm": norm}

    def decompositions(self) -> dict[str, Tensor]:
        """The bases of projections and the statistics of normalisations, by name."""
        module = self.modules.get(self.training_only)
        buffers = [] if module is None else module.named_buffers()
        return {f"{self.training_only}.{name}": x for name, x in buffers if x.is_floating_point()}

    # the interface that checkpoints need (gan_vkd.runtime.progress.Trained)

    def shared(self) -> dict[str, Tensor]:
        return dict(next(iter(self.modules.values())).state_dict())

    def state(self) -> dict[str, Any]:
        states = {name: module.state_dict() for name, module in self.modules.items()}
        return states | {
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision,
            "teacher_precision": self.teacher_precision,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._set_precision(state.get("precision"), state.get("teacher_precision"))
        for name, module in self.modules.items():
            module.load_state_dict(state[name])
        load_optimizer(self.optimizer, state["optimizer"])

    def set_learning_rates(self, factor: float) -> None:
        """Multiplies the learning rates of the schedule by a factor from now on."""
        self.rate.factor = factor
