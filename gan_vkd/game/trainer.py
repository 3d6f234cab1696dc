"""GAN training with distillation into the discriminator: one step per network."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from gan_vkd.data.augment import Augmentation
from gan_vkd.data.batches import Batch
from gan_vkd.distill import retract
from gan_vkd.distill.normalization.covariance import RunningCovariance
from gan_vkd.distill.precision import at_least_float32
from gan_vkd.game.adversary import Adversary, Hinge
from gan_vkd.game.balance import balance
from gan_vkd.game.distillation import Distillation
from gan_vkd.game.ema import EMA
from gan_vkd.game.generator_regularization import GeneratorRegularizer, GeneratorUpdate
from gan_vkd.game.regularization import Regularizer, Update
from gan_vkd.networks.interface import Discriminator, DiscriminatorOutput, Generator
from gan_vkd.runtime import ranks
from gan_vkd.runtime.optimizers import load_optimizer
from gan_vkd.runtime.precision import autocast, backward_in, resolve
from gan_vkd.runtime.schedule import Schedule, as_schedule


class Trainer:
    """Trains a generator and a discriminator, with distillation into the discriminator.

    One iteration consists of d_steps updates of the discriminator (`discriminator_step`) and one of
    the generator (`generator_step`). All modules must be on the generator's device.

    A run captures the updates in CUDA graphs (gan_vkd/runtime/graphs.py). It therefore calls
    `update_discriminator` and `update_generator`, which are the same steps without what differs
    from one iteration to the next: `set_iteration` before them and the EMA's update after them.

    Args:
        generator, discriminator: networks (gan_vkd/networks/interface.py). Parameters of the
            discriminator without requires_grad stay as they are.
        adversary: the adversarial losses; None: hinge.
        augment: augmentation of the discriminator's input images; None: no augmentation.
        distillation: of a teacher's features; None: no distillation.
        regularizers: further terms of the discriminator's and of the generator's loss.
        ema: the EMA generator; None: one with a decay of 0.9999.
        g_lr, d_lr, betas: of Adam, numbers or schedules over iterations.
        d_steps: number of discriminator updates per iteration.
        precision: "auto", "float32", "tf32" or "bfloat16", of the networks
            (gan_vkd/runtime/precision.py); the attribute is what it stands for on the device.

    `between` has the norms of what passed between the networks in the last step: the generated
    images and, in the generator's step, their gradient. They show which network diverged.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        adversary: Adversary | None = None,
        augment: Augmentation | None = None,
        distillation: Distillation | None = None,
        regularizers: Sequence[Regularizer | GeneratorRegularizer] = (),
        *,
        ema: EMA | None = None,
        g_lr: Schedule | float = 2e-4,
        d_lr: Schedule | float = 2e-4,
        betas: tuple[Schedule | float, Schedule | float] = (0.0, 0.999),
        d_steps: int = 1,
        precision: str = "float32",
    ) -> None:
        self.generator, self.discriminator = generator, discriminator
        self.device = str(next(generator.parameters()).device)
        self.adversary = adversary or Hinge()
        self.augment = augment or Augmentation()
        self.distillation = distillation
        self.regularizers = nn.ModuleDict({term.name: term for term in regularizers})
        self._d_terms = [term for term in regularizers if isinstance(term, Regularizer)]
        self._g_terms = [term for term in regularizers if isinstance(term, GeneratorRegularizer)]
        self.ema = ema or EMA(generator)
        self.d_steps = d_steps
        self._requested = precision
        self.precision = resolve(precision, self.device, discriminator.width)
        self._d_parameters = _trained(discriminator)
        if distillation is not None:
            distillation.read(discriminator)
            self._d_parameters += distillation.parameters()
        # the layout of tensor cores; oneDNN's convolutions are up to 5x faster in it, too
        if self.device == "cpu" or self.precision != "float32":
            for network in (generator, discriminator, self.ema.generator):
                network.to(memory_format=torch.channels_last)
        self._rates = as_schedule(g_lr), as_schedule(d_lr)
        self._betas = as_schedule(betas[0]), as_schedule(betas[1])
        self._factor = 1.0
        self.between: dict[str, Tensor] = {}
        self.g_optimizer = self._adam(generator.parameters())
        self.d_optimizer = self._adam(self._d_parameters)
        self.set_iteration(0)

    def _adam(self, parameters: Iterable[Tensor]) -> torch.optim.Adam:
        """Adam with a learning rate on the device, which a captured step reads there."""
        rate, on_gpu = torch.zeros((), device=self.device), self.device.startswith("cuda")
        return torch.optim.Adam(parameters, rate, fused=True, capturable=on_gpu)

    def generate(self, labels: Tensor) -> Tensor:
        """Generates images (B, C, H, W) from new latents, in float32 or better."""
        with autocast(self.device, self.precision):
            images = at_least_float32(self.generator(self._latents(len(labels)), labels))
        self.between = {"the generated images": images.detach().norm()}
        return images

    def _styled(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Generates images, in float32 or better, with the styles (B, L, d) behind them."""
        with autocast(self.device, self.precision):
            images, styles = self.generator.styled(self._latents(len(labels)), labels)
        return at_least_float32(images), styles

    def _latents(self, count: int) -> Tensor:
        return ranks.own_rows(lambda n: self.generator.latents(n, self.device), count)

    def discriminate(self, images: Tensor, labels: Tensor) -> DiscriminatorOutput:
        """Returns scores (B,), in float32 or better, and the features they are computed from."""
        with autocast(self.device, self.precision):
            score, features = self.discriminator(images, labels)
        return DiscriminatorOutput(at_least_float32(score), features)

    def score(self, images: Tensor, labels: Tensor) -> Tensor:
        """Returns scores (B,), in float32 or better."""
        return self.discriminate(images, labels).score

    def discriminator_step(
        self, batch: Batch, fake_labels: Tensor, number: int
    ) -> dict[str, Tensor]:
        """Updates the discriminator and the distillation on B real and B fake images.

        Args:
            batch: B real images.
            fake_labels: (B,), of the images that are generated.
            number: of the discriminator update, counted from 0 over all iterations.

        Returns:
            The values to log, by name; losses are weighted.
        """
        self.set_iteration(number // self.d_steps)
        return self.update_discriminator(batch, fake_labels, number)

    def update_discriminator(
        self, batch: Batch, fake_labels: Tensor, number: int
    ) -> dict[str, Tensor]:
        """`discriminator_step` at the optimiser's present learning rate."""
        with torch.no_grad():
            fake = self.generate(fake_labels)
        clean = torch.cat([fake, batch.images])
        sides = self._sides(fake, batch.images, number)
        labels = torch.cat([fake_labels, batch.labels])
        images = torch.cat([self.augment(side) for side in sides])
        distillation = self._distillation_at(number)
        with nullcontext() if distillation is None else distillation.reading():
            score, features = self.discriminate(images, labels)
        fake_score, real_score = score.chunk(2)
        images = images.detach()  # no graph for the teacher and the penalties
        losses = {"d_loss": self.adversary.discriminator(real_score, fake_score)}
        logged = {"real_score": real_score.mean(), "fake_score": fake_score.mean()}
        if distillation is not None:
            students = distillation.students(features)
            with autocast(self.device, self.precision):  # for the teacher
                losses |= distillation(students, batch, images, clean)
            weight, balance_values = balance(
                distillation.at_the_score(students), losses["d_loss"], losses["distill_loss"],
                distillation.weight, distillation.gradient_ratio,
            )  # fmt: skip
            losses["distill_loss"] = weight * losses["distill_loss"]
            logged |= balance_values
        losses |= self._penalties(
            Update(
                number, number // self.d_steps, batch, images, labels, fake_score, real_score,
                self.augment, self.score, cache(lambda: _derivatives(score, sides)),
            )
        )  # fmt: skip
        # a relative loss does not determine the sign of a score, only that of differences
        relative = real_score - fake_score if self.adversary.relative else real_score
        self.augment.observe(relative.detach())
        logged |= self.augment.logged()
        self.d_optimizer.zero_grad()
        with backward_in(self.precision):
            torch.stack(list(losses.values())).sum().backward()
        ranks.average_gradients(self._d_parameters)
        self.d_optimizer.step()
        retract(self.distillation)
        return losses | logged

    def _sides(self, fake: Tensor, real: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The fake and real images, with gradients if a regulariser asks for them."""
        if not any(term.differentiates(number) for term in self._d_terms):
            return fake, real
        return fake.requires_grad_(), real.detach().requires_grad_()

    def _distillation_at(self, number: int) -> Distillation | None:
        """The distillation, in updates of the discriminator in which it is computed."""
        if self.distillation is None or number % self.distillation.every:
            return None
        return self.distillation

    def _penalties(self, update: Update) -> dict[str, Tensor]:
        """Regularisation terms by name; called after all other forwards of the discriminator."""
        return _computed({term.name: term.penalty(update) for term in self._d_terms})

    def generator_step(
        self, labels: Tensor, iteration: int, real: Batch | None = None
    ) -> dict[str, Tensor]:
        """Updates the generator and the EMA generator; returns the values to log.

        Args:
            labels: (B,), of the images that are generated.
            iteration: counted from 0.
            real: B real images; required if the adversarial loss is relative.
        """
        self.set_iteration(iteration)
        logged = self.update_generator(labels, iteration, real)
        self.ema.update(self.generator, iteration)
        return logged

    def update_generator(
        self, labels: Tensor, iteration: int, real: Batch | None = None
    ) -> dict[str, Tensor]:
        """`generator_step` at the optimiser's present learning rate, without the EMA's update."""
        images = self.generate(labels)
        images.register_hook(self._note_gradient)
        with _untrained(self.discriminator):
            scores = self.score(self.augment(images), labels)
            real_scores = None
            if self.adversary.relative:
                assert real is not None, "a relative loss needs real images in the generator's step"
                real_scores = self.score(self.augment(real.images), real.labels)
        losses = {"g_loss": self.adversary.generator(scores, real_scores)}
        update = GeneratorUpdate(iteration, labels, self._styled)
        losses |= _computed({term.name: term.penalty(update) for term in self._g_terms})
        self.g_optimizer.zero_grad()
        with backward_in(self.precision):
            torch.stack(list(losses.values())).sum().backward()
        ranks.average_gradients(self.generator.parameters())
        self.g_optimizer.step()
        return losses

    def _note_gradient(self, gradient: Tensor) -> None:
        self.between["the gradient at the generated images"] = gradient.norm()

    def set_iteration(self, iteration: int) -> None:
        """Sets what is scheduled: probabilities, weights, learning rates and betas."""
        self.augment.set_iteration(iteration)
        for term in self._d_terms:
            term.set_iteration(iteration)
        betas = self.scheduled_betas(iteration)
        for optimizer, rate in zip((self.g_optimizer, self.d_optimizer), self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"].fill_(rate(iteration) * self._factor)
                group["betas"] = betas

    def scheduled_betas(self, iteration: int) -> tuple[float, float]:
        """The betas of an iteration, which are fixed in a captured update: they move in steps."""
        return self._betas[0].in_steps(iteration), self._betas[1].in_steps(iteration)

    # interface for captured steps (gan_vkd.runtime.graphs.Replayed)

    def discriminator_variant(self, number: int) -> Hashable | None:
        """Everything that the host decides in an update of the discriminator.

        None if a decomposition is due, which synchronises with the device.
        """
        distils = self._distillation_at(number) is not None
        if distils and any(module.decomposes_next for module in self._counting()):
            return None
        iteration = number // self.d_steps
        chosen = tuple(term.variant(number, iteration) for term in self._d_terms)
        return self.scheduled_betas(iteration), distils, chosen

    def generator_variant(self, iteration: int) -> Hashable:
        """Everything that the host decides in an update of the generator."""
        chosen = tuple(term.variant(iteration) for term in self._g_terms)
        return self.scheduled_betas(iteration), chosen

    def count_update(self, number: int) -> None:
        """Counts an update of the discriminator that was replayed."""
        if self._distillation_at(number) is not None:
            for module in self._counting():
                module.count_update()

    def recount_updates(self) -> None:
        """Reads the counts of updates from the device."""
        for module in self._counting():
            module.recount_updates()

    def _counting(self) -> list[RunningCovariance]:
        parts = [] if self.distillation is None else self.distillation.modules()
        return [part for part in parts if isinstance(part, RunningCovariance)]

    # interface for the run's loop (gan_vkd.runtime.progress.Trained)

    def set_learning_rates(self, factor: float) -> None:
        """Multiplies the scheduled learning rates by a factor, from the next step on."""
        self._factor = factor

    def decompositions(self) -> dict[str, Tensor]:
        """Statistics and transforms of the distillation, which can be non-finite before a loss."""
        return {k: v for k, v in self._buffers().items() if not k.endswith(".base")}

    def _buffers(self) -> dict[str, Tensor]:
        if self.distillation is None:
            return {}
        floats = ((k, v) for k, v in self.distillation.named_buffers() if v.is_floating_point())
        return {f"distillation.{name}": value for name, value in floats}

    def discriminator_gradients(self) -> dict[str, Tensor]:
        """Gradients of the discriminator's last update by name, then the projections' bases."""
        others = {name: x for name, x in self._modules().items() if name != "generator"}
        bases = {k: v for k, v in self._buffers().items() if k.endswith(".base")}
        return _gradients(others) | bases

    def generator_gradients(self) -> dict[str, Tensor]:
        """Gradients of the generator's last update by name."""
        return _gradients({"generator": self.generator})

    def _modules(self) -> dict[str, nn.Module]:
        """All modules that change during training, except the EMA generator."""
        modules: dict[str, nn.Module] = {
            "discriminator": self.discriminator,
            "generator": self.generator,
            "regularizers": self.regularizers,
            "augment": self.augment,
        }
        return modules | ({"distillation": self.distillation} if self.distillation else {})

    def shared(self) -> dict[str, Tensor]:
        """State that must be equal on all ranks: weights, buffers and random number generators."""
        state = {
            f"{name}.{key}": value
            for name, module in self._modules().items()
            for key, value in module.state_dict().items()
        }
        state["random numbers"] = torch.get_rng_state()
        if self.device.startswith("cuda"):
            state["random numbers of the device"] = torch.cuda.get_rng_state(self.device)
        return state

    def state(self) -> dict[str, Any]:
        """Returns the complete training state, for `load_state`."""
        modules = {name: module.state_dict() for name, module in self._modules().items()}
        return modules | {
            "classes": self.generator.classes,
            "channels": self.generator.shape.channels,
            "precision": self.precision,
            "average": self.ema.generator.state_dict(),
            "g_optimizer": self.g_optimizer.state_dict(),
            "d_optimizer": self.d_optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores a `state`, and with precision "auto" the precision that it was made with."""
        width, earlier = self.discriminator.width, state.get("precision")
        self.precision = resolve(self._requested, self.device, width, earlier)
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        self.ema.generator.load_state_dict(state["average"])
        load_optimizer(self.g_optimizer, state["g_optimizer"])
        load_optimizer(self.d_optimizer, state["d_optimizer"])


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


@contextmanager
def _untrained(network: nn.Module) -> Iterator[None]:
    """Context in which no parameter gets a gradient from the outputs of the network."""
    trained = _trained(network)
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _computed(losses: dict[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: loss for name, loss in losses.items() if loss is not None}


def _derivatives(score: Tensor, images: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Derivatives of scores (2B,) at the images (B, C, H, W) that they are of, with a graph."""
    return torch.autograd.grad(score.sum(), images, create_graph=True)


def _gradients(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"the gradient of {name}.{parameter}": value.grad
        for name, module in modules.items()
        for parameter, value in module.named_parameters()
        if value.grad is not None
    }
