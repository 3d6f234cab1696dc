"""On a GPU all tensors of a step are there, checked without a GPU on tensors without values.

A FakeTensor has a shape, a type and a device. Operations on two devices, and reading a value on the
host, raise. The autograd engine and Adam need a real device: they are replaced.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gan_vkd.data.batches import Batches
from gan_vkd.data.sets import load_training_set
from gan_vkd.game.build import build_trainer
from gan_vkd.game.trainer import Trainer
from gan_vkd.runtime.meter import Meter
from gan_vkd.teachers.features import FeatureBank, load_bank
from gan_vkd.teachers.frozen import load_teacher
from tests.conftest import MakeSettings
from tests.test_graphs import ARMS, METHODS


def fake(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")


def move(module: nn.Module) -> None:
    for part in module.modules():
        for name, x in part._parameters.items():
            if x is not None:
                part._parameters[name] = nn.Parameter(fake(x), x.requires_grad)
        for name, x in part._buffers.items():
            part._buffers[name] = None if x is None else fake(x)


def move_all(trainer: Trainer) -> None:
    trainer.device = "cuda"
    trainer.set_iteration = lambda iteration: None  # type: ignore[method-assign]
    for module in (*trainer._modules().values(), trainer.ema.generator):
        move(module)
    trainer._d_parameters = list(trainer.discriminator.parameters())
    if trainer.distillation is not None:
        move(trainer.distillation.teacher)
        trainer._d_parameters += trainer.distillation.parameters()
        known = trainer.distillation.bank
        if known is not None:
            trainer.distillation.bank = FeatureBank(fake(known.features), known.images)


def gradients(outputs: Tensor, inputs: Any, **options: Any) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(x) for x in ([inputs] if isinstance(inputs, Tensor) else inputs))


@pytest.mark.parametrize("name", ARMS)
def test_a_step_mixes_no_devices(
    name: str, small: MakeSettings, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arm, overrides = ARMS[name]
    if name in METHODS:
        overrides += (f"distill.teacher={{name: classifier, weights: {classifier}}}",)
    settings = small(*overrides, arm=arm)
    data, distill, teacher = load_training_set(settings.data), settings.distill, None
    if distill is not None:
        layers = [pair.teacher or distill.teacher for pair in distill.pairs]
        teacher = load_teacher(distill.teacher, 32, "cpu", layers)
    trainer = build_trainer(
        settings,
        10,
        "cpu",
        teacher,
        lambda: load_bank(teacher, data, True, None),  # type: ignore[arg-type]
    )
    batches = Batches(data, 8, flip=True, seed=0, device="cpu")
    chosen = batches.indices(0)

    monkeypatch.setattr(torch.autograd, "grad", gradients)
    monkeypatch.setattr(Tensor, "backward", lambda self: None)
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: True)
    with FakeTensorMode():
        move_all(trainer)
        batches.images, batches.labels = fake(batches.images), fake(batches.labels)
        meter = Meter("cuda")
        for number in range(4):
            meter.begin(number)
            batch, labels = batches.of(fake(chosen)), batches.random_labels(8)
            logged = trainer.update_discriminator(batch, labels, number)
            meter.add(logged)
            meter.watch(trainer.between | trainer.decompositions())
        logged |= trainer.update_generator(labels, 0, batch)
        meter.add(logged)
        trainer.ema.update(trainer.generator, 0)
        assert {value.device.type for value in logged.values()} == {"cuda"}


def test_two_devices_are_noticed() -> None:
    x = torch.zeros(3)
    with FakeTensorMode() as mode, pytest.raises(RuntimeError, match="same device"):
        _ = fake(x) + mode.from_tensor(x)
