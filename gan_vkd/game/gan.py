"""The adversarial game with distillation in the discriminator: two steps, as in the paper."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gan_vkd.data.augment import augment
from gan_vkd.data.sets import Batch
from gan_vkd.distill import Reader, Teacher, retract
from gan_vkd.distill.precision import at_least_float32
from gan_vkd.game.adversarial import hinge_discriminator, hinge_generator
from gan_vkd.game.balance import balance
from gan_vkd.game.distillation import Distillation, StudentLayer
from gan_vkd.game.regularization import LeCam, consistency, flip_and_shift, r1_penalty
from gan_vkd.game.settings import PairSettings, Settings
from gan_vkd.networks.biggan import Discriminator, Generator
from gan_vkd.runtime import ranks
from gan_vkd.runtime.devices import autocast
from gan_vkd.teachers.features import FeatureBank
from gan_vkd.teachers.frozen import as_layer


class GAN:
    """Generator, discriminator, their optimisers, the generator's average and the distillation.

    Args:
        settings: of the run.
        classes: 0 for none.
        device: where everything lies.
        teacher, text: of the distillation.
        load_bank: gives the teacher's features of the clean real images; called where the settings
            need them, when all else is known to fit.
        load_views: gives those of two augmented views of them, in the same way.

    Raises:
        ValueError: a layer, width or batch that does not fit the method, or views that never agree.
    """

    def __init__(
        self,
        settings: Settings,
        classes: int,
        device: str,
        teacher: Teacher | None = None,
        load_bank: Callable[[], FeatureBank] | None = None,
        text: Tensor | None = None,
        load_views: Callable[[], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        res, ch, train = settings.data.resolution, settings.model.ch, settings.train
        self.settings, self.classes, self.device = settings, classes, device
        self.generator = Generator(res, ch, settings.model.z_dim, classes).to(device)
        self.discriminator = Discriminator(res, ch, classes).to(device)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        lecam_start = settings.regularize.lecam_start * train.d_steps
        self.lecam = LeCam(start=lecam_start).to(device)
        self.distillation = None
        learnt = list(self.discriminator.parameters())
        if settings.distill is not None:
            assert teacher is not None
            layers = [as_layer(pair.student, "pool") for pair in settings.distill.pairs]
            self.reader = Reader(self.discriminator, layers)
            self.distillation = Distillation(
                settings.distill, teacher, self._students(settings.distill.pairs), text
            ).to(device)
            self._require_batch(self.distillation)
            if load_bank is not None and settings.distill.needs_bank:
                self.distillation.use(load_bank())
            if load_views is not None and settings.distill.needs_views:
                self.distillation.fit_views(*load_views())
            learnt += self.distillation.parameters()
        if device == "cpu":  # oneDNN's convolutions are up to 5x faster in this layout
            for network in (self.generator, self.discriminator, self.average):
                network.to(memory_format=torch.channels_last)
        self.g_optimizer = torch.optim.Adam(self.generator.parameters(), train.g_lr, train.betas)
        self.d_optimizer = torch.optim.Adam(learnt, train.d_lr, train.betas)
        self._learnt = learnt

    def _require_batch(self, distillation: Distillation) -> None:
        settings, batch = distillation.settings, self.settings.train.batch_size
        least, given = distillation.least_batch, 2 * batch if settings.images == "both" else batch
        if given < least:
            what = f"method = {settings.method}"
            if distillation.method.least_batch < least:
                what = f"student.scaling = {settings.student.scaling}"
            raise ValueError(
                f"{what} relates {least} images or more to each other, and train.batch_size = "
                f"{batch} gives it {given}"
            )

    @torch.no_grad()
    def _students(self, pairs: list[PairSettings]) -> list[StudentLayer]:
        """What the pairs read of the discriminator, by a forward of one image."""
        res = self.settings.data.resolution
        image = torch.zeros(1, 3, res, res, device=self.device)
        self.discriminator.eval()(image, torch.zeros(1, dtype=torch.int64, device=self.device))
        self.discriminator.train()
        summed = self.discriminator.positions
        return [
            StudentLayer(features.shape[1], summed if pair.at_the_score else 1)
            for features, pair in zip(self.reader.take(), pairs, strict=True)
        ]

    def generate(self, labels: Tensor) -> Tensor:
        """Images (B, 3, R, R) of new latents, in float32 at least."""
        with autocast(self.device, self.settings.train.precision):
            return at_least_float32(self.generator(self.sample_latents(len(labels)), labels))

    def score(self, images: Tensor, labels: Tensor) -> Tensor:
        """Scores (B,), in float32 at least."""
        with autocast(self.device, self.settings.train.precision):
            return at_least_float32(self.discriminator(images, labels))

    def sample_latents(self, count: int) -> Tensor:
        width, device = self.generator.z_dim, self.device
        return ranks.own_rows(lambda n: torch.randn(n, width, device=device), count)

    def discriminator_step(
        self, batch: Batch, fake_labels: Tensor, number: int
    ) -> dict[str, Tensor]:
        """Update `number` of the discriminator and the projections on B real and B fake images."""
        with torch.no_grad():
            fake = self.generate(fake_labels)
        clean = torch.cat([fake, batch.images])
        labels = torch.cat([fake_labels, batch.labels])
        images = torch.cat([augment(x, self.settings.augment) for x in (fake, batch.images)])
        fake_score, real_score = self.score(images, labels).chunk(2)
        losses = {"d_loss": hinge_discriminator(real_score, fake_score)}
        told = {"real_score": real_score.mean(), "fake_score": fake_score.mean()}
        if self.distillation is not None:
            features = self.reader.take()
            with autocast(self.device, self.settings.train.precision):  # of the teacher
                losses |= self.distillation(features, batch, images, clean)
            weight, seen = balance(
                self.distillation.settings, features, losses["d_loss"], losses["distill_loss"]
            )
            losses["distill_loss"] = weight * losses["distill_loss"]
            told |= seen
        losses |= self._regularize(images, labels, fake_score, real_score, batch, number)
        self.d_optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        ranks.average_gradients(self._learnt)
        self.d_optimizer.step()
        retract(self.distillation)
        return losses | told

    def _regularize(
        self,
        images: Tensor,
        labels: Tensor,
        fake_score: Tensor,
        real_score: Tensor,
        batch: Batch,
        number: int,
    ) -> dict[str, Tensor]:
        """What the settings ask of the discriminator beside the game; its forwards come last."""
        settings, losses, b = self.settings.regularize, {}, len(batch.labels)
        if settings.lecam:
            losses["lecam_loss"] = settings.lecam * self.lecam(real_score, fake_score)
        if settings.consistency:
            sides = {"fake": fake_score, "real": real_score}
            if settings.consistency_images == "real":
                images, labels, sides = images[b:], labels[b:], {"real": real_score}
            flip = self.settings.data.flip
            moved = torch.cat([flip_and_shift(side, flip) for side in images.split(b)])
            again = self.score(moved, labels).split(b)
            terms = [consistency(a, s) for a, s in zip(again, sides.values(), strict=True)]
            losses["consistency_loss"] = settings.consistency * torch.stack(terms).sum()
        if settings.r1 and number % settings.r1_every == 0:
            # at the clean images, through the augmentation; rarer and as much stronger (StyleGAN2)
            real = batch.images.detach().clone().requires_grad_()
            scores = self.score(augment(real, self.settings.augment), batch.labels)
            losses["r1_loss"] = settings.r1 * settings.r1_every * r1_penalty(scores, real)
        return losses

    def generator_step(self, labels: Tensor, iteration: int) -> dict[str, Tensor]:
        """One update of the generator and of its average."""
        self.discriminator.requires_grad_(False)
        scores = self.score(augment(self.generate(labels), self.settings.augment), labels)
        loss = hinge_generator(scores)
        self.g_optimizer.zero_grad()
        loss.backward()
        ranks.average_gradients(self.generator.parameters())
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

    def set_learning_rates(self, factor: float) -> None:
        """Those of the settings times a factor."""
        train = self.settings.train
        for optimizer, lr in ((self.g_optimizer, train.g_lr), (self.d_optimizer, train.d_lr)):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor

    def decompositions(self) -> dict[str, Tensor]:
        """Statistics of the distillation, by name: what can fail before a loss does."""
        return {k: v for k, v in self._buffers().items() if not k.endswith(".base")}

    def _buffers(self) -> dict[str, Tensor]:
        if self.distillation is None:
            return {}
        floats = ((k, v) for k, v in self.distillation.named_buffers() if v.is_floating_point())
        return {f"distillation.{name}": value for name, value in floats}

    def gradients(self) -> dict[str, Tensor]:
        """Of the last update of each network, by parameter; then the projections' bases."""
        gradients = {
            f"the gradient of {name}.{parameter}": value.grad
            for name, network in self._networks().items()
            for parameter, value in network.named_parameters()
            if value.grad is not None
        }
        return gradients | {k: v for k, v in self._buffers().items() if k.endswith(".base")}

    def _networks(self) -> dict[str, nn.Module]:
        """All that is trained."""
        networks = {"discriminator": self.discriminator, "generator": self.generator}
        return networks | ({} if self.distillation is None else {"distillation": self.distillation})

    def shared(self) -> dict[str, Tensor]:
        """What all ranks must agree on: weights, and random numbers drawn for the whole batch."""
        state = {
            f"{name}.{key}": value
            for name, network in self._networks().items()
            for key, value in network.state_dict().items()
        }
        state["random numbers"] = torch.get_rng_state()
        if self.device.startswith("cuda"):
            state["random numbers of the device"] = torch.cuda.get_rng_state(self.device)
        return state

    def state(self) -> dict[str, Any]:
        return {
            "classes": self.classes,
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "average": self.average.state_dict(),
            "g_optimizer": self.g_optimizer.state_dict(),
            "d_optimizer": self.d_optimizer.state_dict(),
            "lecam": self.lecam.state_dict(),
            "distillation": self.distillation.state_dict() if self.distillation else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.average.load_state_dict(state["average"])
        self.g_optimizer.load_state_dict(state["g_optimizer"])
        self.d_optimizer.load_state_dict(state["d_optimizer"])
        self.lecam.load_state_dict(state["lecam"])
        if self.distillation is not None:
            self.distillation.load_state_dict(state["distillation"])


def remedy(name: str) -> str:
    """What may help against a tensor of that name that is not finite."""
    if name.endswith(".normalize.transform"):
        return "a larger distill.whitening.eps or .shrinkage"
    if ".normalize." in name:
        return "another distill.teacher, whose features are finite"
    if "gradient of generator" in name or name == "g_loss":
        return "a smaller train.g_lr"
    if "distill" in name:
        return "a smaller distill.weight or train.d_lr"
    return "a smaller train.d_lr"
