"""How strong the distillation is beside the game, measured at the features where both meet."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_vkd import ranks
from gan_vkd.config import DistillSettings

LARGEST = 1e4  # of automatic weights, as in VQGAN


class Balance:
    """The weight of the distillation, and what its record tells.

    Both gradients are taken at the features z that the score is computed from. By `weight: auto`
    the norm of the distillation's is `gradient_ratio` times that of the game's at every update
    (Esser, Rombach and Ommer, CVPR 2021, equation 7, who balance their adversarial term so).

    Args:
        settings: of the distillation.
    """

    def __init__(self, settings: DistillSettings) -> None:
        self.settings = settings
        self.place = next((i for i, p in enumerate(settings.pairs) if p.at_the_score), None)

    def __call__(
        self, students: list[Tensor], game: Tensor, distillation: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weight, and what a record tells of z (2B, d), by name; nothing waits for the device.

        - z_norm: the mean Euclidean norm; z_centred: the share of its square that is variance;
          z_rank: the effective rank of the variance (participation ratio, tr(C)^2 / tr(C^2)).
        - gradient_ratio, gradient_cosine: of the weighted distillation to the game, at z.
        - distill_weight, where it is automatic.

        Args:
            students: the features that the distillation reads, one a pair.
            game, distillation: both losses, without a weight.
        """
        given = self.settings.weight
        auto = given == "auto"
        weight = torch.ones_like(distillation) * (1.0 if given == "auto" else given)
        if self.place is None:
            return weight, {}
        z = students[self.place]
        gradients = [
            torch.autograd.grad(loss, z, retain_graph=True)[0].float()
            for loss in (game, distillation)
        ]
        with torch.no_grad():
            z, of_game, of_distillation = (ranks.gather(x.float()) for x in (z, *gradients))
            norms = of_game.norm(), of_distillation.norm()
            if auto:
                weight = self.settings.gradient_ratio * _ratio(*norms).clamp_max(LARGEST)
            seen = _spread(z) | {
                "gradient_ratio": weight * _ratio(norms[1], norms[0]),
                "gradient_cosine": F.cosine_similarity(
                    of_game.flatten(), of_distillation.flatten(), dim=0
                ),
            }
        return weight, seen | ({"distill_weight": weight} if auto else {})


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), 0.0)


def _spread(z: Tensor) -> dict[str, Tensor]:
    centred = z - z.mean(0)
    gram = centred.T @ centred
    variance = gram.trace()
    return {
        "z_norm": z.norm(dim=1).mean(),
        "z_centred": _ratio(variance, z.square().sum()),
        "z_rank": _ratio(variance.square(), gram.square().sum()),
    }
