"""Adversarial losses; one class has the loss of the discriminator and that of the generator."""

import torch.nn.functional as F
from torch import Tensor

from gan_vkd.runtime.registry import Registry


class Adversary:
    """Base class: losses of discriminator and generator from scores (B,) of real and fake images.

    relative: whether the generator's loss depends on the scores of real images. If not, `generator`
    is called with real = None.
    """

    relative = False

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Scores (B,) of real and of fake images -> a scalar."""
        raise NotImplementedError

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        """Scores (B,) -> a scalar; real is None unless the loss is relative."""
        raise NotImplementedError


ADVERSARIES: Registry[Adversary] = Registry("adversary")


@ADVERSARIES.register("hinge")
class Hinge(Adversary):
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))); the generator's is -D(G(z)).

    Lim and Ye 2017; Miyato et al., ICLR 2018, equations 16 and 17.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return -fake.mean()


@ADVERSARIES.register("non_saturating")
class NonSaturating(Adversary):
    """softplus(-D(x)) + softplus(D(G(z))); the generator's is softplus(-D(G(z))).

    Goodfellow et al., NeurIPS 2014, section 3, in the form of StyleGAN2.
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        return F.softplus(-fake).mean()


@ADVERSARIES.register("relativistic")
class Relativistic(Adversary):
    """softplus(D(G(z)) - D(x)) over pairs; the generator's is softplus(D(x) - D(G(z))).

    RSGAN (Jolicoeur-Martineau, ICLR 2019). R3GAN (Huang et al., NeurIPS 2024) uses this loss
    together with gradient penalties on real and on fake images.
    """

    relative = True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        return F.softplus(fake - real).mean()

    def generator(self, fake: Tensor, real: Tensor | None) -> Tensor:
        assert real is not None
        return F.softplus(real - fake).mean()
