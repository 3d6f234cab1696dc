"""Iterations of training: the trainer's updates on batches, captured in CUDA graphs."""

from torch import Tensor

from gan_vkd.data.batches import Batch, Batches
from gan_vkd.game.trainer import Trainer
from gan_vkd.runtime.graphs import Capture, Replayed
from gan_vkd.runtime.meter import Meter


class Updates:
    """Iterations of d_steps updates of the discriminator and one of the generator.

    Args:
        trainer: whose networks are updated.
        batches: of the real images.
        capture: captures an update (gan_vkd/runtime/graphs.py); None: all are computed eagerly.
    """

    def __init__(self, trainer: Trainer, batches: Batches, capture: Capture | None) -> None:
        self.trainer, self.batches = trainer, batches
        self.d_step = Replayed(
            self._discriminator_step,
            capture,
            after_replay=lambda chosen, number, meter: trainer.count_update(number),
            after_failure=trainer.recount_updates,
        )
        self.g_step = Replayed(self._generator_step, capture)
        self._betas: tuple[float, float] | None = None

    def __call__(self, done: int, meter: Meter) -> None:
        """Computes an iteration, counted from 0; the values to log are added to the meter."""
        trainer = self.trainer
        trainer.set_iteration(done)
        betas = trainer.scheduled_betas(done)
        if betas != self._betas:  # graphs of earlier betas only hold memory
            self.d_step.forget()
            self.g_step.forget()
        self._betas = betas
        for number in range(done * trainer.d_steps, (done + 1) * trainer.d_steps):
            chosen = self.batches.indices(number)
            self.d_step(trainer.discriminator_variant(number), chosen, number, meter)
        self.g_step(trainer.generator_variant(done), chosen, done, meter)
        trainer.ema.update(trainer.generator, done)

    def _discriminator_step(self, chosen: Tensor, number: int, meter: Meter) -> None:
        """An update of the discriminator on real images of these indices.

        Of values that are not finite, the first one that is watched is blamed: losses are the
        discriminator's fault if the generated images are finite.
        """
        trainer, batch = self.trainer, self.batches.of(chosen)
        losses = trainer.update_discriminator(batch, self._fake_labels(chosen, batch), number)
        meter.watch(trainer.between | trainer.decompositions())
        meter.add(losses)
        meter.watch(trainer.discriminator_gradients())

    def _generator_step(self, chosen: Tensor, iteration: int, meter: Meter) -> None:
        """An update of the generator; a relative loss compares with images of these indices."""
        trainer = self.trainer
        real = self.batches.of(chosen) if trainer.adversary.relative else None
        losses = trainer.update_generator(self._fake_labels(chosen, real), iteration, real)
        meter.watch(trainer.between)
        meter.add(losses)
        meter.watch(trainer.generator_gradients())

    def _fake_labels(self, chosen: Tensor, real: Batch | None) -> Tensor:
        """Labels (B,) of images to generate; a relative loss compares pairs of the same class."""
        if real is None or not self.trainer.adversary.relative:
            return self.batches.random_labels(len(chosen))
        return real.labels
