"""The adversarial game with distillation in the discriminator: two steps, as in the paper."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gan_vkd.adversarial import hinge_discriminator, hinge_generator
from gan_vkd.augment import augment
from gan_vkd.config import DistillSettings, Settings
from gan_vkd.distill import Teacher, VkDLoss
from gan_vkd.models.biggan import Discriminator, Generator


class Distillation(nn.Module):
    """weight * method(student features, teacher(images)) on real, fake or all images.

    The teacher is held outside of the module's state: it is frozen and comes from its own file.
    """

    def __init__(self, settings: DistillSettings, teacher: Teacher, student_width: int) -> None:
        super().__init__()
        self.settings, self._teacher = settings, [teacher]
        whitened = settings.normalization.startswith("whitening")
        self.method = VkDLoss(
            student_width,
            teacher.width,
            projection=settings.projection,
            normalization=settings.normalization,
            distance=settings.distance,
            **(settings.whitening.model_dump() if whitened else {}),
        )

    def forward(self, features: Tensor, augmented: Tensor, clean: Tensor) -> Tensor:
        """Features (2B, ds) of augmented images (2B, 3, R, R): B fake ones, then B real ones."""
        images = augmented if self.settings.view == "augmented" else clean
        fake, real = (slice(None, len(images) // 2), slice(len(images) // 2, None))
        part = {"both": slice(None), "fake": fake, "real": real}[self.settings.images]
        with torch.no_grad():
            target = self._teacher[0](images[part])
        return self.settings.weight * self.method(features[part], target)


class GAN:
    """Generator, discriminator, their optimisers, the generator's average and the distillation."""

    def __init__(
        self, settings: Settings, classes: int, device: str, teacher: Teacher | None = None
    ) -> None:
        res, ch, train = settings.data.resolution, settings.model.ch, settings.train
        self.settings, self.classes, self.device = settings, classes, device
        self.generator = Generator(res, ch, settings.model.z_dim, classes).to(device)
        self.discriminator = Discriminator(res, ch, classes).to(device)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.distillation = None
        learnt = list(self.discriminator.parameters())
        if settings.distill is not None:
            assert teacher is not None
            width = self.discriminator.width
            self.distillation = Distillation(settings.distill, teacher, width).to(device)
            learnt += self.distillation.parameters()
        if device == "cpu":  # oneDNN's convolutions are up to 5x faster in this layout
            for network in (self.generator, self.discriminator, self.average):
                network.to(memory_format=torch.channels_last)
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), train.g_lr, train.betas)
        self.d_optimizer = torch.optim.Adam(learnt, train.d_lr, train.betas)

    def sample_latents(self, count: int) -> Tensor:
        return torch.randn(count, self.generator.z_dim, device=self.device)

    def discriminator_step(
        self, real: Tensor, labels: Tensor, fake_labels: Tensor
    ) -> dict[str, Tensor]:
        """One update of the discriminator and the projection on B real and B fake images."""
        with torch.no_grad():
            fake = self.generator(self.sample_latents(len(real)), fake_labels)
        clean = torch.cat([fake, real])
        images = augment(clean, self.settings.augment)
        scores, features = self.discriminator(images, torch.cat([fake_labels, labels]))
        fake_score, real_score = scores.chunk(2)
        adversarial = hinge_discriminator(real_score, fake_score)
        losses = {"d_loss": adversarial}
        if self.distillation is not None:
            losses["distill_loss"] = self.distillation(features, images, clean)
        self.d_optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self.d_optimizer.step()
        return losses | {"real_score": real_score.mean(), "fake_score": fake_score.mean()}

    def generator_step(self, labels: Tensor, iteration: int) -> dict[str, Tensor]:
        """One update of the generator and of its average."""
        self.discriminator.requires_grad_(False)
        fake = self.generator(self.sample_latents(len(labels)), labels)
        scores, _ = self.discriminator(augment(fake, self.settings.augment), labels)
        loss = hinge_generator(scores)
        self.g_optimizer.zero_grad()
        loss.backward()
        self.g_optimizer.step()
        self.discriminator.requires_grad_(True)
        self._update_average(iteration)
        return {"g_loss": loss}

    @torch.no_grad()
    def _update_average(self, iteration: int) -> None:
        """Exponential average of parameters and batch statistics, a plain copy before its start."""
        train = self.settings.train
        weight = 1 - train.ema_decay if iteration >= train.ema_start else 1.0
        averaged, current = self.average.state_dict(), self.generator.state_dict()
        torch._foreach_lerp_(list(averaged.values()), list(current.values()), weight)

    def state(self) -> dict[str, Any]:
        return {
            "classes": self.classes,
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.average.state_dict(),
            "g_optimizer": self.g_optimizer.state_dict(),
            "d_optimizer": self.d_optimizer.state_dict(),
            "distillation": self.distillation.state_dict() if self.distillation else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.average.load_state_dict(state["average"])
        self.g_optimizer.load_state_dict(state["g_optimizer"])
        self.d_optimizer.load_state_dict(state["d_optimizer"])
        if self.distillation is not None:
            self.distillation.load_state_dict(state["distillation"])
