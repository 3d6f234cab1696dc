"""How strong the distillation is beside the game, measured at the features where both meet."""

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_vkd.distill.precision import at_least_float32
from gan_vkd.runtime import ranks

LARGEST = 1e4  # of automatic weights, as in VQGAN


def balance(
    z: Tensor | None, game: Tensor, loss: Tensor, weight: float | str, gradient_ratio: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weight of the distillation, and what a record tells; nothing waits for the device.

    Both gradients are taken at the features z (2B, d) that the score is computed from. By
    `weight: auto` the norm of the distillation's is `gradient_ratio` times that of the game's at
    every update (Esser, Rombach and Ommer, CVPR 2021, equation 7, who balance their adversarial
    term so); without a gradient of the game the weight is zero. Told, by name, are

    - z_norm: the mean Euclidean norm of z; z_centred: the share of its square that is variance;
      z_rank: the effective rank of the variance (participation ratio, tr(C)^2 / tr(C^2));
    - gradient_ratio, gradient_cosine: of the weighted distillation to the game, at z;
    - distill_weight.

    Nothing is told where the distillation does not read z.

    Args:
        z: the features, or None.
        game, loss: the game's and the distillation's, without a weight.
        weight: a number or "auto".
        gradient_ratio: what "auto" keeps.
    """
    if z is None:
        assert weight != "auto"
        return torch.full_like(loss, float(weight)), {}
    of_game, of_distillation = (
        ranks.gather(at_least_float32(torch.autograd.grad(term, z, retain_graph=True)[0]))
        for term in (game, loss)
    )
    ratio = _ratio(of_distillation.norm(), of_game.norm())
    if weight == "auto":
        factor = _ratio(torch.full_like(ratio, gradient_ratio), ratio).clamp_max(LARGEST)
    else:
        factor = torch.full_like(ratio, float(weight))
    cosine = F.cosine_similarity(of_game.flatten(), of_distillation.flatten(), dim=0)
    told = {"distill_weight": factor, "gradient_ratio": factor * ratio, "gradient_cosine": cosine}
    return factor, told | _spread(ranks.gather(z.detach()))


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), 0.0)


def _spread(z: Tensor) -> dict[str, Tensor]:
    z = at_least_float32(z)
    centred = z - z.mean(0)
    gram = centred.T @ centred
    variance = gram.trace()
    return {
        "z_norm": z.norm(dim=1).mean(),
        "z_centred": _ratio(variance, z.square().sum()),
        "z_rank": _ratio(variance.square(), gram.square().sum()),
    }
