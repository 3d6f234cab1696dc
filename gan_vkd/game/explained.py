"""How much of the teacher the discriminator has learnt, on images that it was not trained on."""

import torch
from torch import Tensor

from gan_vkd.data.image_set import ImageSet, to_network
from gan_vkd.game.trainer import Trainer

COUNT = 200  # images at most, the same at every call
BATCH = 100
LEAST = 0.02  # below it, the teacher is not being learnt


def explained_share(predicted: Tensor, target: Tensor) -> Tensor:
    """R^2 of the target (N, d) over all dimensions: 1 - squared error / variance.

    By c + a * predicted, with the best centre c and the best factor a >= 0. They are fitted since
    an orthogonal projection can change neither, and since some student features have both taken
    away; so it is the squared correlation, and 0 says that nothing is learnt.
    """
    p, t = predicted - predicted.mean(0), target - target.mean(0)
    along = (p * t).sum().clamp_min(0)
    return along.square() / (p.square().sum() * t.square().sum()).clamp_min(1e-30)


class ExplainedShare:
    """The share of the normalised teacher's variance that the projected discriminator explains.

    Of the images as they are, not augmented, and of the first pair of layers; the teacher's
    features are computed once.

    Args:
        trainer: with a distillation whose method maps to the teacher's features.
        heldout: images of which the first COUNT in an order drawn by `seed` are taken.
        seed: of the order.
    """

    def __init__(self, trainer: Trainer, heldout: ImageSet, seed: int) -> None:
        assert trainer.distillation is not None
        self.trainer, self.distillation = trainer, trainer.distillation
        order = torch.randperm(len(heldout), generator=torch.Generator().manual_seed(seed))
        images = heldout.images[order[:COUNT]].to(trainer.device)
        self.images = to_network(images).split(BATCH)
        with torch.no_grad():
            teacher = [self.distillation.teacher.read(batch)[0] for batch in self.images]
        self.teacher = torch.cat(teacher)

    @staticmethod
    def is_defined(trainer: Trainer) -> bool:
        """Whether the method maps the student to the teacher's features."""
        distillation = trainer.distillation
        return distillation is not None and hasattr(distillation.method.methods[0], "sides")

    @torch.no_grad()
    def __call__(self) -> float:
        """R^2 of the present discriminator, in eval mode; the training goes on as if unasked."""
        networks = self.trainer.discriminator, self.distillation
        for network in networks:
            network.eval()
        labels = torch.zeros(len(self.images[0]), dtype=torch.int64, device=self.trainer.device)
        students = []
        for batch in self.images:
            features = self.trainer.judge(batch, labels[: len(batch)]).features
            students.append(self.distillation.students(features)[0])
        share = explained_share(*self.distillation.sides(torch.cat(students), self.teacher))
        for network in networks:
            network.train()
        return float(share)
