"""Training of a small classifier: a teacher or a judge where no published network fits."""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F

from gan_vkd.data.augment import translation
from gan_vkd.data.batches import Batches
from gan_vkd.data.image_set import ImageSet, to_network, why_no_classes
from gan_vkd.data.sets import load_heldout_set, load_training_set
from gan_vkd.data.settings import DataSettings
from gan_vkd.networks.cifar_resnet import CifarResNet
from gan_vkd.networks.weights import require_finite
from gan_vkd.runtime.bars import progress_bar
from gan_vkd.runtime.checkpoint import save_state
from gan_vkd.runtime.devices import pick_device
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.section import Section
from gan_vkd.runtime.settings import BatchSize, LearningRate, Positive, Seed

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


class TeachSettings(Section):
    """Settings of `vkd teach`."""

    seed: Seed = 0
    """Of initial weights, order of images and random numbers."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""
    data: DataSettings
    """The images and their classes."""
    depth: Literal[8, 14, 20, 32, 44, 56] = 8
    """Layers of the CIFAR ResNet."""
    iterations: Positive = 500
    """Updates of the network."""
    batch_size: BatchSize = 50
    """Images of one update."""
    lr: LearningRate = 2e-3
    """Learning rate."""


def teach(settings: TeachSettings, out: Path) -> float | None:
    """Trains a CIFAR ResNet to classify the training set and writes it to `out`.

    Returns:
        Accuracy on the held-out set, None without one.

    Raises:
        SettingsError: a set without classes, or a held-out set with other classes.
        VkdError: the network is not finite at the end; nothing is written.
    """
    device = pick_device(settings.device)
    in_rgb = settings.data.of_channels(3)  # as teachers and judges are given images
    data = load_training_set(in_rgb)
    if len(data.classes) < 2:
        raise SettingsError(
            f"data.source = {settings.data.source}: {why_no_classes(data.names)}, so nothing to "
            "teach; two are needed"
        )
    heldout = load_heldout_set(in_rgb)
    if heldout is not None and heldout.classes != data.classes:
        raise SettingsError(
            f"data.heldout = {settings.data.heldout}: has other classes than data.source"
        )
    torch.manual_seed(settings.seed)
    network = CifarResNet(settings.depth, len(data.classes)).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), settings.lr, weight_decay=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.iterations
    )
    batches = Batches(
        data, settings.batch_size, flip=settings.data.flip, seed=settings.seed, device=device
    )
    for number in progress_bar(range(settings.iterations), f"resnet{settings.depth}"):
        batch = batches(number)
        logits = network(translation(batch.images))
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    try:
        require_finite(network.eval(), out)
    except VkdError as error:
        raise VkdError(f"{error}: not written; set a smaller lr") from None
    accuracy = None if heldout is None else measure_accuracy(network, heldout, device)
    state = {
        "kind": "classifier",
        "depth": settings.depth,
        "classes": len(data.classes),
        "mean": MEAN,
        "std": STD,
        "accuracy": accuracy,
        "settings": settings.model_dump(mode="json"),
        "network": network.state_dict(),
    }
    save_state(out, state)
    return accuracy


@torch.no_grad()
def measure_accuracy(network: torch.nn.Module, data: ImageSet, device: str) -> float:
    """Share of images whose largest logit is their label's; images are passed in [-1, 1]."""
    correct = 0
    for images, labels in zip(data.images.split(200), data.labels.split(200), strict=True):
        logits = network(to_network(images.to(device)))
        correct += int((logits.argmax(1).cpu() == labels).sum())
    return correct / len(data)
