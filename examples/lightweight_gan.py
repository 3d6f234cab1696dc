"""VkD in the discriminator of lightweight-gan (lucidrains): a wrapper and two lines.

Its trainer adds the auxiliary loss, which the discriminator returns for real images, to the loss.
In `lightweight_gan.py`, at the end of `Trainer.init_GAN` before `if self.is_ddp`, with this file
beside it and a teacher of yours:

    self.GAN.D_aug.D = Distilled(self.GAN.D, my_teacher(), width=256).cuda(self.rank)
    self.GAN.D_aug.D.vkd.join(self.GAN.D_opt)

`width` is the number of channels that `D.to_logits` is given. Checkpoints made before do not fit.

`python examples/lightweight_gan.py` applies it to a small network with the same interface.
"""

from torch import Tensor, nn

from gan_vkd.distill import Distiller, Layer, Reader, Teacher


class Distilled(nn.Module):
    """A discriminator whose auxiliary loss contains the distillation."""

    def __init__(self, discriminator: nn.Module, teacher: Teacher, width: int) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.vkd = Distiller(teacher, width, scaling="batch")
        self.reader = Reader(discriminator, [Layer("to_logits", before=True)])  # mean over 8 x 8

    def forward(
        self, images: Tensor, calc_aux_loss: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """As the discriminator's; images are in [0, 1]."""
        with self.reader:
            score, small_score, loss = self.discriminator(images, calc_aux_loss=calc_aux_loss)
        features = self.reader.take()
        if calc_aux_loss:
            loss = loss + self.vkd(*features, 2 * images - 1)
        return score, small_score, loss


def main(steps: int = 60) -> list[float]:
    """Trains the small stand-in; returns the auxiliary loss of each step."""
    from parts import small_teacher
    from stand_ins import LightweightGAN, lightweight_training_loop

    gan = LightweightGAN()
    gan.D_aug.D = Distilled(gan.D, small_teacher(), width=32)
    gan.D_aug.D.vkd.join(gan.D_opt)
    return lightweight_training_loop(gan, steps)


if __name__ == "__main__":
    losses = main()
    print(f"auxiliary loss: {losses[0]:.3f} at first, {losses[-1]:.3f} at the end")
