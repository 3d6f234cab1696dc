"""A discriminator that learns from a frozen teacher, in a plain PyTorch loop.

python examples/plain_pytorch.py
"""

import torch
import torch.nn.functional as F
from parts import digits, generator, small_teacher, trunk
from torch import nn
from torch.utils.data import DataLoader

from gan_vkd.distill import Distiller, Layer, Reader


def main(epochs: int = 5) -> list[float]:
    """Trains a small GAN; returns the distillation loss of each discriminator update."""
    torch.manual_seed(0)
    g, d = generator(), nn.Sequential(trunk(64), nn.Linear(64, 1))
    g_optimizer = torch.optim.Adam(g.parameters(), lr=1e-3, betas=(0.0, 0.99))
    d_optimizer = torch.optim.Adam(d.parameters(), lr=1e-3, betas=(0.0, 0.99))

    whitening = {"name": "whitening", "directions": 16}  # the others are mapped to zero
    vkd = Distiller(small_teacher(), 64, scaling="batch", normalization=whitening)
    vkd.join(d_optimizer)  # which trains the projection, and retracts it after each step
    reader = Reader(d, [Layer("0")])  # the features that the score is computed from

    losses = []
    for _ in range(epochs):
        for real, _ in DataLoader(digits(), 64, shuffle=True, drop_last=True):
            fake = g(torch.randn(len(real), 16)).detach()
            both = torch.cat([fake, real])
            with reader:
                scores = d(both).squeeze(1)
            distillation = vkd(*reader.take(), both)
            of_fake, of_real = scores.chunk(2)
            adversarial = F.relu(1 + of_fake).mean() + F.relu(1 - of_real).mean()
            d_optimizer.zero_grad()
            (adversarial + distillation).backward()
            d_optimizer.step()
            losses.append(distillation.item())

            g_loss = -d(g(torch.randn(len(real), 16))).mean()
            g_optimizer.zero_grad()
            g_loss.backward()
            g_optimizer.step()
    return losses


if __name__ == "__main__":
    losses = main()
    first, last = sum(losses[:20]) / 20, sum(losses[-20:]) / 20
    print(f"distillation loss: {first:.3f} at first, {last:.3f} at the end")
