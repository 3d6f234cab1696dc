"""Share of the teacher's variance that the discriminator explains on held-out images."""

import torch
from torch import Tensor

from gan_vkd.data.image_set import ImageSet, to_network
from gan_vkd.game.trainer import Trainer
from gan_vkd.networks.interface import in_eval_mode

COUNT = 200  # maximum number of images
BATCH = 100
LEAST = 0.02  # below this share a run warns that the teacher is not being learnt


def explained_share(predicted: Tensor, target: Tensor) -> Tensor:
    """R^2 of the target (N, d) over all dimensions: 1 - squared error / variance.

    The target is predicted by c + a * predicted, with the best centre c and the best factor a >= 0.
    They are fitted because an orthogonal projection can change neither, and because some student
    features are centred and rescaled. R^2 is thus a squared correlation; 0 means that nothing is
    learnt.
    """
    p, t = predicted - predicted.mean(0), target - target.mean(0)
    along = (p * t).sum().clamp_min(0)
    return along.square() / (p.square().sum() * t.square().sum()).clamp_min(1e-30)


class ExplainedShare:
    """Share of the normalised teacher's variance that the projected discriminator explains.

    Computed for the first pair of layers on clean images; the same images are used at every call,
    and the teacher's features are computed once.

    Args:
        trainer: its distillation's method must map the student to the teacher's features.
        heldout: the held-out set, of which at most COUNT images are drawn by `seed`.
        seed: of the draw.
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
        """Returns R^2 of the discriminator in eval mode; does not affect the training."""
        labels = torch.zeros(len(self.images[0]), dtype=torch.int64, device=self.trainer.device)
        students = []
        with in_eval_mode(self.trainer.discriminator, self.distillation):
            for batch in self.images:
                with self.distillation.reading():
                    features = self.trainer.discriminate(batch, labels[: len(batch)]).features
                students.append(self.distillation.students(features)[0])
            sides = self.distillation.sides(torch.cat(students), self.teacher)
        return float(explained_share(*sides))
