"""The controller of ADA's probability (section 3 of the paper)."""

import torch
from torch import Tensor, nn

from gan_vkd.runtime.across import mean, world


class Controller(nn.Module):
    """Moves p by a fixed amount to where the discriminator overfits as much as `target` says.

    Overfitting is measured by r_t = E[sign D(x)] over the real images of the last `every` updates:
    0 if it is absent, 1 if every training image is known as real. Everything is on the device and
    equal on all ranks. The paper bounds p below only; here it also ends at 1, so that it falls at
    once when overfitting ends.

    Args:
        p: at the start.
        target: of r_t.
        every: discriminator updates between two changes of p.
        kimg: thousands of real images in which p rises from 0 to 1.
    """

    p: Tensor
    rt: Tensor
    signs: Tensor
    updates: Tensor

    def __init__(
        self, p: float = 0.0, target: float = 0.6, every: int = 4, kimg: float = 500.0
    ) -> None:
        super().__init__()
        self.target, self.every, self.kimg = target, every, kimg
        self.register_buffer("p", torch.tensor(p))
        self.register_buffer("rt", torch.zeros(()))  # the last measured r_t; 0 before the first
        self.register_buffer("signs", torch.zeros(()))  # sum since the last change
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))  # since then

    @torch.no_grad()
    def observe(self, real_scores: Tensor) -> None:
        """Receives the scores (B,) of real images on this rank, at one discriminator update."""
        self.signs += mean(real_scores.sign().mean())
        self.updates += 1
        due = self.updates == self.every  # compared on the device, which is not waited for
        self.rt.copy_(torch.where(due, self.signs / self.every, self.rt))
        step = len(real_scores) * world() * self.every / (1000 * self.kimg)
        moved = self.p + (self.rt - self.target).sign() * step
        self.p.copy_(torch.where(due, moved.clamp(0, 1), self.p))
        self.signs.masked_fill_(due, 0)
        self.updates.masked_fill_(due, 0)
