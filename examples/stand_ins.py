"""Small networks and trainers with the interfaces of stylegan2-ada-pytorch and lightweight-gan.

They stand in for these projects where they are not installed: names, arguments and shapes are
theirs, everything else is as small as possible.
"""

from typing import Any

import torch
import torch.nn.functional as F
from parts import digits, generator, trunk
from torch import Tensor, nn


def batches(steps: int, size: int = 64) -> Any:
    """Real images (size, 1, 16, 16) in [-1, 1], drawn at random."""
    images = digits().tensors[0]
    return (images[torch.randint(len(images), (size,))] for _ in range(steps))


class StyleGAN2Discriminator(nn.Module):
    """D(img, c) -> logits (B, 1), by an epilogue `b4` whose last layer is `out`."""

    def __init__(self) -> None:
        super().__init__()
        self.b16 = trunk(32)
        self.b4 = nn.Sequential()
        self.b4.out = nn.Linear(32, 1)

    def forward(self, img: Tensor, c: Tensor) -> Tensor:
        return self.b4(self.b16(img))


class StyleGAN2Loss:
    """The discriminator's part of the loss; an augmentation that flips."""

    def __init__(self, device: str, G: nn.Module, D: nn.Module) -> None:
        self.device, self.G, self.D = device, G, D

    def run_D(self, img: Tensor, c: Tensor, sync: bool) -> Tensor:
        return self.D(img.flip(3), c)

    def accumulate_gradients(
        self, phase: str, real_img: Tensor, real_c: Tensor, gen_z: Tensor, gen_c: Tensor,
        sync: bool, gain: float,
    ) -> None:  # fmt: skip
        fake = self.run_D(self.G(gen_z), gen_c, sync=False)
        if phase == "Gmain":
            (F.softplus(-fake).mean() * gain).backward()
            return
        (F.softplus(fake).mean() * gain).backward()
        real = self.run_D(real_img, real_c, sync=sync)
        (F.softplus(-real).mean() * gain).backward()


def stylegan2_training_loop(kind: type, steps: int) -> Any:
    """Trains with a loss class as the training loop does; returns the loss object."""
    networks = {"G": generator(), "D": StyleGAN2Discriminator()}
    loss = kind(device="cpu", **networks)
    optimizers = {}
    for name, module in networks.items():
        opt = torch.optim.Adam(module.parameters(), lr=0.002, betas=(0.0, 0.99))
        if name == "D":
            loss.vkd.join(opt)
        optimizers[name] = opt
    for real in batches(steps):
        c = torch.zeros(len(real), 0)
        for name, opt in optimizers.items():
            opt.zero_grad(set_to_none=True)
            networks[name].requires_grad_(True)
            loss.accumulate_gradients(
                phase=f"{name}main", real_img=real, real_c=c, gen_z=torch.randn(len(real), 16),
                gen_c=c, sync=True, gain=1,
            )  # fmt: skip
            networks[name].requires_grad_(False)
            opt.step()
    return loss


class LightweightDiscriminator(nn.Module):
    """Scores of the image and of a small copy, and an auxiliary loss of reconstruction."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = trunk(32)[:4]
        self.to_logits = nn.Conv2d(32, 1, 4)
        self.to_shape_disc_out = nn.Conv2d(1, 1, 8)
        self.decoder1 = nn.ConvTranspose2d(32, 1, 4, 4)

    def forward(self, x: Tensor, calc_aux_loss: bool = False) -> tuple[Any, ...]:
        features = self.layers(x)
        scores = self.to_logits(features).flatten(1), self.to_shape_disc_out(F.avg_pool2d(x, 2))
        return *scores, F.mse_loss(self.decoder1(features), x) if calc_aux_loss else None


class AugWrapper(nn.Module):
    """Augments, and calls the discriminator."""

    def __init__(self, D: nn.Module) -> None:
        super().__init__()
        self.D = D

    def forward(self, images: Tensor, **kwargs: Any) -> tuple[Any, ...]:
        return self.D(images.flip(3), **kwargs)


class LightweightGAN(nn.Module):
    """Generator, discriminator, its augmentation and its optimiser."""

    def __init__(self) -> None:
        super().__init__()
        self.G, self.D = generator(), LightweightDiscriminator()
        self.D_opt = torch.optim.Adam(self.D.parameters(), lr=0.002, betas=(0.5, 0.9))
        self.D_aug = AugWrapper(self.D)


def lightweight_training_loop(gan: LightweightGAN, steps: int) -> list[float]:
    """Trains the discriminator alone; returns the auxiliary losses."""
    losses = []
    for real in batches(steps):
        fake = (gan.G(torch.randn(len(real), 16)).detach() + 1) / 2
        of_fake, small_fake, _ = gan.D_aug(fake)
        of_real, small_real, auxiliary = gan.D_aug((real + 1) / 2, calc_aux_loss=True)
        loss = sum((F.relu(1 + r) + F.relu(1 - f)).mean()
                   for r, f in ((of_real, of_fake), (small_real, small_fake)))  # fmt: skip
        gan.D_opt.zero_grad()
        (loss + auxiliary).backward()
        gan.D_opt.step()
        losses.append(float(auxiliary.detach()))
    return losses
