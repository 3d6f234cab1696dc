"""What the examples share: handwritten digits, a small trained teacher, small networks."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from gan_vkd.distill import Layer, Teacher


def digits() -> TensorDataset:
    """1,797 digits: images (1, 16, 16) in [-1, 1] and labels."""
    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 8 - 1
    return TensorDataset(F.interpolate(images, (16, 16)), torch.from_numpy(found.target))


def trunk(width: int) -> nn.Sequential:
    """Images (B, 1, 16, 16) -> features (B, width)."""
    return nn.Sequential(
        nn.Conv2d(1, width // 2, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(width // 2, width, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.AvgPool2d(4), nn.Flatten(),
    )  # fmt: skip


def generator(latent: int = 16) -> nn.Sequential:
    """Latents (B, latent) -> images (B, 1, 16, 16) in [-1, 1]."""
    return nn.Sequential(
        nn.Linear(latent, 64 * 16), nn.Unflatten(1, (64, 4, 4)), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def small_teacher(steps: int = 200) -> Teacher:
    """A classifier of digits, frozen, whose features (B, 64) are distilled.

    In your project, any network: `Teacher(network, mean=..., std=..., size=..., layers=...)`.
    """
    network = nn.Sequential(trunk(64), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    images, labels = digits().tensors
    for _ in range(steps):
        chosen = torch.randint(len(images), (64,))
        loss: Tensor = F.cross_entropy(network(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Teacher(network, mean=[0.5], std=[0.5], layers=[Layer("0")], probe=16)
